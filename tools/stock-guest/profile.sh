# What a person at the console of the stock test guest gets.
PS1='stock# '
cat <<'TEXT'

The stock test guest. Its kernel and drivers are Debian's.
  ls -l /sys/bus/vmbus/devices        the offers            dmesg        what the drivers said
  lsscsi; sg_inq /dev/sg0             the disks             mount /dev/sda /mnt
  modprobe hv_netvsc                  more drivers          cat /etc/module-groups/*
  reboot -f                           start again           poweroff -f  end

TEXT
