import { expect, test } from "vitest";
import layoutFile from "./vectors/layouts.json" with { type: "json" };
import * as protocol from "../src/protocol/index.js";
import { ShortOpen, SignalOpen } from "../src/protocol/channels.js";
import {
  ClientIdContact,
  FeaturesResponse,
  InterruptPageContact,
  MonitorPagesResponse,
  ShortResponse,
  TargetInfoContact,
} from "../src/protocol/connection.js";
import { BodyPart, HeaderPart } from "../src/protocol/gpadl.js";
import { ShortConnect, SiloConnect } from "../src/protocol/hvsock.js";

interface Structure {
  readonly size: number;
  readonly fields: readonly {
    readonly name: string;
    readonly offset: number;
    readonly size: number;
  }[];
}
interface AnyRecord {
  readonly SIZE: number;
  readonly fields: Readonly<Record<string, { readonly offset: number; readonly width: number }>>;
}

const structures = new Map<string, Structure>(Object.entries(layoutFile));

/** Our records by the name of the structure that the two kernels, or OpenVMM, define. */
const records: readonly (readonly [string, AnyRecord])[] = [
  ["hv_message", protocol.MessageSlot],
  ["hv_input_post_message", protocol.PostMessageInput],
  ["hv_input_signal_event", protocol.SignalEventInput],
  ["hv_monitor_parameter", protocol.MonitorParameter],
  ["hv_timer_message_payload", protocol.TimerMessage],
  ["channel_message_header", protocol.MessageHeader],
  ["msg1_offer_channel", protocol.OfferChannel],
  ["msg2_rescind_channel_offer", protocol.RescindChannelOffer],
  ["msg3_request_offers", protocol.RequestOffers],
  ["msg4_all_offers_delivered", protocol.AllOffersDelivered],
  ["msg5_open_channel", ShortOpen],
  ["msg5_open_channel2", SignalOpen],
  ["msg6_open_result", protocol.OpenChannelResult],
  ["msg7_close_channel", protocol.CloseChannel],
  ["msg8_gpadl_header", HeaderPart],
  ["msg9_gpadl_body", BodyPart],
  ["msg10_gpadl_created", protocol.GpadlCreated],
  ["msg11_gpadl_teardown", protocol.GpadlTeardown],
  ["msg12_gpadl_torndown", protocol.GpadlTorndown],
  ["msg13_relid_released", protocol.RelidReleased],
  ["msg14_initiate_contact", InterruptPageContact],
  ["msg14_initiate_contact2", ClientIdContact],
  ["msg15_version_response", ShortResponse],
  ["msg15_version_response2", FeaturesResponse],
  ["msg15_version_response3", MonitorPagesResponse],
  ["msg16_unload", protocol.Unload],
  ["msg17_unload_response", protocol.UnloadResponse],
  ["msg18_open_reserved_channel", protocol.OpenReservedChannel],
  ["msg19_close_reserved_channel", protocol.CloseReservedChannel],
  ["msg20_close_reserved_channel_response", protocol.CloseReservedResponse],
  ["msg21_tl_connect_request", ShortConnect],
  ["msg21_tl_connect_request2", SiloConnect],
  ["msg22_modify_channel", protocol.ModifyChannel],
  ["msg23_tl_connect_result", protocol.TlConnectResult],
  ["msg24_modify_channel_response", protocol.ModifyChannelResponse],
  ["msg25_modify_connection", protocol.ModifyConnection],
  ["msg26_modify_connection_response", protocol.ModifyConnectionResponse],
  ["msg27_pause", protocol.Pause],
  ["msg28_pause_response", protocol.PauseResponse],
  ["msg29_resume", protocol.Resume],
  ["pipe_user_defined", protocol.PipeUserData],
  ["hvsock_user_defined", protocol.HvsockUserData],
];

/** Where a field's name differs by more than its spelling: what the structures call it. */
const names: Readonly<Record<string, readonly string[]>> = {
  type: ["msgtype"],
  classId: ["if_type"],
  instanceId: ["if_instance"],
  relid: ["child_relid"],
  openId: ["openid"],
  ringGpadlId: ["ringbuffer_gpadl"],
  gpadlId: ["gpadl"],
  downstreamPageOffset: ["downstream_ring_pageoffset", "downstream_page_offset"],
  userData: ["user_defined", "userdata"],
  rangeBytes: ["range_buflen"],
  rangeCount: ["rangecount"],
  status: ["status", "creation_status"],
  flags: ["flags", "message_flags", "chn_flags"],
  redirectInterrupt: ["flags"],
  features: ["target_info_feature_flags", "supported_features"],
  supported: ["version_supported"],
  selectedVersionOrConnectionId: ["selected_version_or_connection_id", "connection_id"],
  version: ["version_requested", "version"],
  targetVp: ["target_vp", "target_vcpu"],
  sint: ["target_info_sint", "target_sint"],
  vtl: ["target_info_vtl"],
  interruptPageGpa: ["interrupt_page_or_target_info"],
  parentToChildMonitorGpa: ["monitor_page1", "parent_to_child_monitor_page_gpa"],
  childToParentMonitorGpa: ["monitor_page2", "child_to_parent_monitor_page_gpa"],
  messageNumber: ["msgnumber"],
  monitorId: ["monitorid"],
  dedicatedInterrupt: ["is_dedicated_interrupt"],
  mmioMegabytesOptional: ["reserved3"],
  endpointId: ["endpoint_id", "guest_endpoint_id"],
  serviceId: ["service_id", "host_service_id"],
  hostInitiated: ["is_for_guest_accept"],
  forContainer: ["is_for_guest_container"],
};

/** Fields that no record names, besides the header and what is reserved. */
const uncarried: readonly string[] = [
  "msg1_offer_channel.pipe_mode", // inside the user data: PipeUserData
  "msg1_offer_channel.pipe_user_defined",
  "msg8_gpadl_header.range0_byte_count", // behind the fixed part: GpaRangeHeader
  "msg8_gpadl_header.range0_byte_offset",
  "msg8_gpadl_header.range0_pfn",
  "msg9_gpadl_body.pfn",
  "msg14_initiate_contact.msg_sint", // the other reading of the same word: TargetInfoContact
];

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

test.each(records)("%s has its size, and each field its place and width", (name, ours) => {
  const structure = structures.get(name)!;
  expect(ours.SIZE).toBe(structure.size);
  const found = new Set<string>(["msgtype"]);
  for (const [fieldName, field] of Object.entries(ours.fields)) {
    const candidates = names[fieldName] ?? [snakeCase(fieldName)];
    const theirs = structure.fields.find((candidate) => candidates.includes(candidate.name))!;
    expect(theirs, fieldName).toBeDefined();
    expect({ offset: field.offset, width: field.width }, fieldName).toEqual({
      offset: theirs.offset,
      width: theirs.size,
    });
    found.add(theirs.name);
  }
  const missing = structure.fields
    .filter((field) => !found.has(field.name) && !/(^|_)(reserved|padding)/.test(field.name))
    .map((field) => `${name}.${field.name}`);
  expect(missing.filter((field) => !uncarried.includes(field))).toEqual([]);
});

test.each(records)(
  "the size of %s is its last field's end, or what is reserved behind it",
  (name, ours) => {
    const ends = Object.values(ours.fields).map((field) => field.offset + field.width);
    const reserved = structures
      .get(name)!
      .fields.filter((field) => /(^|_)(reserved|padding)/.test(field.name))
      .map((field) => field.offset + field.size);
    expect(ours.SIZE).toBe(Math.max(...ends, ...reserved));
  },
);

test("the target info of INITIATE_CONTACT lies where the interrupt page was", () => {
  const at = structures.get("msg14_initiate_contact")!.fields.find((f) => f.name === "msg_sint")!;
  expect(TargetInfoContact.fields.sint.offset).toBe(at.offset);
  const info = structures.get("msg14_initiate_contact_target_info")!.fields;
  for (const [ours, theirs] of [
    [TargetInfoContact.fields.sint, "sint"],
    [TargetInfoContact.fields.vtl, "vtl"],
    [TargetInfoContact.fields.features, "feature_flags"],
  ] as const) {
    const field = info.find((candidate) => candidate.name === theirs)!;
    expect(ours.offset).toBe(at.offset + field.offset);
    expect(ours.width).toBe(field.size);
  }
  expect(TargetInfoContact.SIZE).toBe(structures.get("msg14_initiate_contact")!.size);
});

/** Offsets of memory that is accessed in place: ours beside the structure's field. */
const { Packet, ControlPage, MonitorPage } = protocol;
const tables: readonly (readonly [string, Readonly<Record<string, number>>, number])[] = [
  [
    "ring_control_page",
    {
      write_index: ControlPage.writeIndex,
      read_index: ControlPage.readIndex,
      interrupt_mask: ControlPage.interruptMask,
      pending_send_sz: ControlPage.pendingSendSize,
      feature_bits: ControlPage.featureBits,
      g2h_intr_cnt: ControlPage.freebsdSignalCount,
    },
    ControlPage.SIZE,
  ],
  [
    "vmpacket_descriptor",
    {
      type: Packet.type,
      offset8: Packet.dataOffset8,
      len8: Packet.length8,
      flags: Packet.flags,
      trans_id: Packet.transactionIdLow,
    },
    Packet.descriptorBytes,
  ],
  [
    "packet_trailer",
    {
      reserved: protocol.PacketTrailer.reserved,
      packet_start_offset: protocol.PacketTrailer.packetStart,
    },
    protocol.PacketTrailer.SIZE,
  ],
  [
    "vmtransfer_page_packet_header",
    {
      xfer_pageset_id: protocol.TransferPages.setId,
      range_cnt: protocol.TransferPages.rangeCount,
      ranges: protocol.TransferPages.ranges,
    },
    protocol.TransferPages.ranges,
  ],
  [
    "vmtransfer_page_range",
    {
      byte_count: protocol.TransferPageRange.byteCount,
      byte_offset: protocol.TransferPageRange.byteOffset,
    },
    protocol.TransferPageRange.SIZE,
  ],
  [
    "vmdata_gpa_direct",
    { range_cnt: protocol.GpaDirect.rangeCount, range: protocol.GpaDirect.ranges },
    protocol.GpaDirect.ranges,
  ],
  [
    "gpa_range",
    {
      byte_count: protocol.GpaRangeHeader.byteCount,
      byte_offset: protocol.GpaRangeHeader.byteOffset,
      pfn_array: protocol.GpaRangeHeader.SIZE,
    },
    protocol.GpaRangeHeader.SIZE,
  ],
  [
    "pipe_packet_header",
    { packet_type: protocol.PipeHeader.packetType, len: protocol.PipeHeader.length },
    protocol.PipeHeader.SIZE,
  ],
  [
    "hv_monitor_page",
    {
      trigger_state: MonitorPage.triggerState,
      trigger_group: MonitorPage.triggerGroups,
      next_checktime: MonitorPage.nextCheckTimes,
      latency: MonitorPage.latencies,
      parameter: MonitorPage.parameters,
    },
    MonitorPage.SIZE,
  ],
];

test.each(tables)("%s has its size, and each field its place", (name, offsets, size) => {
  const structure = structures.get(name)!;
  expect(size).toBe(structure.size);
  for (const [field, offset] of Object.entries(offsets))
    expect(offset, field).toBe(structure.fields.find((f) => f.name === field)?.offset);
});

test("pages of slots and flags are as large as their parts", () => {
  expect(structures.get("hv_message_page")!.size).toBe(
    protocol.SINT_COUNT * protocol.MessageSlot.SIZE,
  );
  const area = structures.get("hv_synic_event_flags")!.size;
  expect(protocol.EventFlagsPage).toEqual({ areaBytes: area, flagsPerArea: area * 8 });
  expect(structures.get("hv_monitor_trigger_group")!.size).toBe(MonitorPage.triggerGroupBytes);
});

test("words of the control page are a quarter of their byte offsets", () => {
  for (const word of [
    "writeIndex",
    "readIndex",
    "interruptMask",
    "pendingSendSize",
    "featureBits",
  ] as const)
    expect(ControlPage[`${word}Word`] * 4).toBe(ControlPage[word]);
  expect(Packet.transactionIdHigh).toBe(Packet.transactionIdLow + 4);
});

test("every known structure is one of ours, or there is a reason why not", () => {
  const reasons = {
    hv_message_page: "16 times MessageSlot",
    hv_synic_event_flags: "EventFlagsPage",
    hv_monitor_trigger_group: "two words of MonitorPage",
    msg14_initiate_contact_target_info: "fields of TargetInfoContact",
    msg15_version_response_freebsd: "FreeBSD reads a shorter part of the same message",
    vmtransfer_page_packet_header_linux: "the same header with one range",
    vmdata_gpa_direct_single_page_ranges: "the same header",
    gpa_range_one_page: "GpaRangeHeader and one page number",
    vmbus_channel_packet_page_buffer: "GpaDirect with 32 ranges of one page",
    vmbus_packet_mpb_array: "GpaDirect with one range",
    vmbuspipe_hdr: "PipeHeader by its other name",
    vmgpadl_packet_header: "packet type that does not occur",
    vmadd_remove_transfer_page_set: "packet type that does not occur",
    vmadditional_data: "packet type that does not occur",
  };
  const ours = [...records, ...tables].map(([name]) => name);
  expect([...ours, ...Object.keys(reasons)].sort()).toEqual([...structures.keys()].sort());
});

test("monitor ids are found in the page", () => {
  expect(protocol.monitorPendingOffset(0)).toBe(8);
  expect(protocol.monitorPendingOffset(31)).toBe(8);
  expect(protocol.monitorPendingOffset(32)).toBe(16);
  expect(protocol.monitorPendingOffset(127)).toBe(32);
  expect(protocol.monitorLatencyOffset(0)).toBe(576);
  expect(protocol.monitorLatencyOffset(127)).toBe(576 + 3 * 64 + 31 * 2);
  expect(protocol.monitorParameterOffset(127)).toBe(1088 + 3 * 256 + 31 * 8);
});
