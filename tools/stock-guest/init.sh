#!/bin/sh
# The first program of the stock test guest. It mounts what programs expect, loads the modules that the
# kernel's command line asks for, and then serves the serial console.
#
#   stock.modules=GROUP,MODULE,...  what to load: groups as in /etc/module-groups, or single modules;
#                                   "none" for none; bus and storage when absent
#   stock.console=commands          a program drives the console (below); a shell for a person when absent
#
# The commands console: one command a line, run by a shell of its own with no input. What it prints comes
# back unchanged, then byte 0x1e, its exit status in decimal, and a line feed. The same three, with status
# 0, come first of all, as soon as commands are taken.

/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=linux

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
ln -sf /proc/self/fd /dev/fd
hostname stock

parameter() {
  value=$2
  for word in $(cat /proc/cmdline); do
    case $word in
      "stock.$1="*) value=${word#*=} ;;
    esac
  done
  echo "$value"
}

for word in $(parameter modules bus,storage | tr , ' '); do
  if [ "$word" = none ]; then
    continue
  elif [ -e "/etc/module-groups/$word" ]; then
    modprobe -a $(cat "/etc/module-groups/$word")
  else
    modprobe "$word"
  fi
done

ip link set lo up
tty=/dev/$(sed 's/.* //' /sys/class/tty/console/active)

commands() {
  exec <"$tty" >"$tty" 2>&1
  # The kernel's log is read with dmesg; on this line it would mix with what commands print.
  dmesg -n 1
  stty raw -echo
  printf '\0360\n'
  while IFS= read -r line; do
    (eval "$line") </dev/null
    printf '\036%d\n' $?
  done
}

while :; do
  if [ "$(parameter console shell)" = commands ]; then
    (commands)
  else
    setsid cttyhack sh -l
  fi
done
