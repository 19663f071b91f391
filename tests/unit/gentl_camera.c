/* A GenTL producer with one simulated camera, for tests of the GenICam source: GenTL 1.5's functions as a maker's .cti file has them.
 * The camera's registers, and its XML behind them, lie in one array. TriggerMode On: a frame only after TriggerSoftware.
 * It exposes a frame every 20 ms, into the oldest buffer that waits; where none does, the frame is lost. A pixel is x + 10 y + the
 * frame's number. Width 13 plays a torn cable (waiting for a frame is an I/O error), width 14 lost packets (frames are incomplete). */

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, ERR_NOT_IMPLEMENTED = -1003, ERR_RESOURCE_IN_USE = -1004, ERR_INVALID_ID = -1007, ERR_NO_DATA = -1008, ERR_IO = -1010, ERR_TIMEOUT = -1011,
       ERR_INVALID_ADDRESS = -1015, ERR_BUFFER_TOO_SMALL = -1016 };
enum { STRING = 1, INT32 = 5, UINT32 = 6, UINT64 = 8, PTR = 10, BOOL8 = 11, SIZET = 12 };
enum { WIDTH = 0, HEIGHT = 4, FORMAT = 8, PAYLOAD = 12, TRIGGER_MODE = 16, START = 20, STOP = 24, LOCKED = 28, MODE = 32, SOFTWARE = 36,
       XML = 0x1000, REGISTERS = 40, BUFFERS = 32 };
enum { MONO8 = 0x01080001, MONO12 = 0x01100005 };

#define REGISTER(name, address, more) \
  "<Integer Name=\"" name "\"><pValue>" name "Reg</pValue>" more "</Integer>" \
  "<IntReg Name=\"" name "Reg\"><Address>" #address "</Address><Length>4</Length><AccessMode>RW</AccessMode><pPort>Device</pPort>" \
  "<Sign>Unsigned</Sign><Endianess>LittleEndian</Endianess></IntReg>"
#define CHOICE(name, address, entries) \
  "<Enumeration Name=\"" name "\">" entries "<pValue>" name "Reg</pValue></Enumeration>" \
  "<IntReg Name=\"" name "Reg\"><Address>" #address "</Address><Length>4</Length><AccessMode>RW</AccessMode><pPort>Device</pPort>" \
  "<Sign>Unsigned</Sign><Endianess>LittleEndian</Endianess></IntReg>"
#define ENTRY(name, value) "<EnumEntry Name=\"" name "\"><Value>" #value "</Value></EnumEntry>"
#define COMMAND(name, address) \
  "<Command Name=\"" name "\"><pValue>" name "Reg</pValue><CommandValue>1</CommandValue></Command>" \
  "<IntReg Name=\"" name "Reg\"><Address>" #address "</Address><Length>4</Length><AccessMode>RW</AccessMode><pPort>Device</pPort>" \
  "<Sign>Unsigned</Sign><Endianess>LittleEndian</Endianess></IntReg>"

static const char xml[] =
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>"
    "<RegisterDescription ModelName=\"Simulated\" VendorName=\"Tests\" StandardNameSpace=\"None\" SchemaMajorVersion=\"1\""
    " SchemaMinorVersion=\"1\" SchemaSubMinorVersion=\"0\" MajorVersion=\"1\" MinorVersion=\"0\" SubMinorVersion=\"0\""
    " ProductGuid=\"11111111-1111-1111-1111-111111111111\" VersionGuid=\"11111111-1111-1111-1111-111111111112\""
    " xmlns=\"http://www.genicam.org/GenApi/Version_1_1\">"
    "<Category Name=\"Root\"><pFeature>Width</pFeature><pFeature>Height</pFeature><pFeature>PixelFormat</pFeature></Category>"
    REGISTER("Width", 0, "") REGISTER("Height", 4, "") REGISTER("PayloadSize", 12, "") REGISTER("TLParamsLocked", 28, "")
    CHOICE("PixelFormat", 8, ENTRY("Mono8", 0x01080001) ENTRY("Mono12", 0x01100005) ENTRY("RGB8", 0x02180014) ENTRY("BGR8", 0x02180015) ENTRY("BayerRG8", 0x01080009))
    CHOICE("TriggerMode", 16, ENTRY("Off", 0) ENTRY("On", 1)) CHOICE("AcquisitionMode", 32, ENTRY("Continuous", 0))
    COMMAND("AcquisitionStart", 20) COMMAND("AcquisitionStop", 24) COMMAND("TriggerSoftware", 36)
    "<Port Name=\"Device\"></Port></RegisterDescription>";

typedef struct { void *base, *user; size_t size; int queued; uint64_t frame; } Buffer;

static struct { uint32_t value[REGISTERS / 4]; } camera = {{16, 8, MONO8, 16 * 8}};
static Buffer buffers[BUFFERS];
static int taken, announced, started;
static struct { int at[BUFFERS], first, count; } waiting, filled;
static uint64_t frames, begun, exposed;
static int handle[8]; /* system, interface, device, remote device, stream, event */

static uint32_t get(int address) { return camera.value[address / 4]; }
static uint32_t bytes_of_pixel(void) { return (get(FORMAT) >> 16 & 0xff) / 8; }

static int put(int32_t *type, void *out, size_t *size, int kind, const void *value, size_t length) {
  if (type) *type = kind;
  if (out && *size < length) return ERR_BUFFER_TOO_SMALL;
  if (out) memcpy(out, value, length);
  *size = length;
  return OK;
}
static int text(int32_t *type, void *out, size_t *size, const char *value) { return put(type, out, size, STRING, value, strlen(value) + 1); }
static int number(int32_t *type, void *out, size_t *size, int32_t value) { return put(type, out, size, INT32, &value, 4); }
static int word(int32_t *type, void *out, size_t *size, uint64_t value) { return put(type, out, size, UINT64, &value, 8); }
static int length(int32_t *type, void *out, size_t *size, size_t value) { return put(type, out, size, SIZET, &value, sizeof value); }
static int truth(int32_t *type, void *out, size_t *size, uint8_t value) { return put(type, out, size, BOOL8, &value, 1); }

int GCInitLib(void) { return OK; }
int GCCloseLib(void) { return OK; }
int GCGetLastError(int32_t *code, char *words, size_t *size) { *code = OK; return text(0, words, size, "cable"); }

static int described(int command, int32_t *type, void *out, size_t *size) {
  static const char *const words[] = {"sim", "Tests", "Simulated", "1.0", "Custom", "sim.cti", "/sim.cti", "Simulated"};
  if (command <= 7) return text(type, out, size, words[command]);
  if (command == 8) return number(type, out, size, 1);
  return command <= 10 ? put(type, out, size, UINT32, &(uint32_t){command == 9 ? 1 : 5}, 4) : ERR_NOT_IMPLEMENTED;
}
int GCGetInfo(int command, int32_t *type, void *out, size_t *size) { return described(command, type, out, size); }
int TLGetInfo(void *tl, int command, int32_t *type, void *out, size_t *size) { return described(command, type, out, size); }
int TLOpen(void **tl) { *tl = &handle[0]; return OK; }
int TLClose(void *tl) { return OK; }
int TLUpdateInterfaceList(void *tl, uint8_t *changed, uint64_t ms) { if (changed) *changed = 1; return OK; }
int TLGetNumInterfaces(void *tl, uint32_t *number) { *number = 1; return OK; }
int TLGetInterfaceID(void *tl, uint32_t index, char *id, size_t *size) { return text(0, id, size, "interface"); }
int TLGetInterfaceInfo(void *tl, const char *id, int command, int32_t *type, void *out, size_t *size) {
  return text(type, out, size, command == 2 ? "Custom" : "interface");
}
int TLOpenInterface(void *tl, const char *id, void **interface) { *interface = &handle[1]; return OK; }

int IFClose(void *interface) { return OK; }
int IFGetParentTL(void *interface, void **tl) { *tl = &handle[0]; return OK; }
int IFGetInfo(void *interface, int command, int32_t *type, void *out, size_t *size) { return TLGetInterfaceInfo(0, "", command, type, out, size); }
int IFUpdateDeviceList(void *interface, uint8_t *changed, uint64_t ms) { if (changed) *changed = 1; return OK; }
int IFGetNumDevices(void *interface, uint32_t *number) { *number = 1; return OK; }
int IFGetDeviceID(void *interface, uint32_t index, char *id, size_t *size) { return text(0, id, size, "camera"); }
int DevGetInfo(void *device, int command, int32_t *type, void *out, size_t *size) {
  static const char *const words[] = {"camera", "Tests", "Simulated", "Custom", "Simulated", 0, "sim", "17", "1.0"};
  if (command == 5) return number(type, out, size, 1);
  return command <= 8 ? text(type, out, size, words[command]) : ERR_NOT_IMPLEMENTED;
}
int IFGetDeviceInfo(void *interface, const char *id, int command, int32_t *type, void *out, size_t *size) {
  return DevGetInfo(0, command, type, out, size);
}
int IFOpenDevice(void *interface, const char *id, int access, void **device) {
  if (taken) return ERR_RESOURCE_IN_USE;
  taken = 1, *device = &handle[2];
  return OK;
}
int DevClose(void *device) { taken = 0; return OK; }
int DevGetParentIF(void *device, void **interface) { *interface = &handle[1]; return OK; }
int DevGetPort(void *device, void **port) { *port = &handle[3]; return OK; }
int DevGetNumDataStreams(void *device, uint32_t *number) { *number = 1; return OK; }
int DevGetDataStreamID(void *device, uint32_t index, char *id, size_t *size) { return text(0, id, size, "stream"); }
int DevOpenDataStream(void *device, const char *id, void **stream) { *stream = &handle[4]; announced = started = waiting.count = filled.count = 0; return OK; }

int GCReadPort(void *port, uint64_t address, void *out, size_t *size) {
  if (address >= XML && address + *size <= XML + sizeof xml) memcpy(out, xml + address - XML, *size);
  else if (address + *size <= REGISTERS) memcpy(out, (char *)camera.value + address, *size);
  else return ERR_INVALID_ADDRESS;
  return OK;
}
int GCWritePort(void *port, uint64_t address, const void *in, size_t *size) {
  if (address + *size > REGISTERS) return ERR_INVALID_ADDRESS;
  memcpy((char *)camera.value + address, in, *size);
  camera.value[PAYLOAD / 4] = get(WIDTH) * get(HEIGHT) * bytes_of_pixel();
  return OK;
}
int GCGetPortURL(void *port, char *url, size_t *size) {
  char place[64];
  snprintf(place, sizeof place, "local:sim.xml;%x;%zx", XML, sizeof xml - 1);
  return text(0, url, size, place);
}
int GCGetNumPortURLs(void *port, uint32_t *number) { *number = 1; return OK; }
int GCGetPortURLInfo(void *port, uint32_t index, int command, int32_t *type, void *out, size_t *size) {
  if (command == 0) { if (type) *type = STRING; return GCGetPortURL(port, out, size); }
  if (command <= 5) return number(type, out, size, command == 1 || command == 3);
  if (command == 7) return word(type, out, size, XML);
  if (command == 8) return word(type, out, size, sizeof xml - 1);
  if (command == 9) return number(type, out, size, 0);
  return command == 10 ? text(type, out, size, "sim.xml") : ERR_NOT_IMPLEMENTED;
}
int GCGetPortInfo(void *port, int command, int32_t *type, void *out, size_t *size) {
  if (command >= 5 && command <= 10) return truth(type, out, size, command == 5 || command == 7 || command == 8);
  return text(type, out, size, command == 12 ? "Device" : command == 3 ? "Custom" : "sim");
}

int GCRegisterEvent(void *source, int event, void **registered) { *registered = &handle[5]; return event == 1 ? OK : ERR_NOT_IMPLEMENTED; }
int GCUnregisterEvent(void *source, int event) { return OK; }
int EventKill(void *event) { return OK; }
int EventFlush(void *event) { return OK; }
int EventGetInfo(void *event, int command, int32_t *type, void *out, size_t *size) {
  return command == 0 ? number(type, out, size, 1) : length(type, out, size, command == 1 ? (size_t)filled.count : 2 * sizeof(void *));
}
int EventGetDataInfo(void *event, const void *data, size_t filled, int command, int32_t *type, void *out, size_t *size) {
  return ERR_NOT_IMPLEMENTED;
}

static void expose(Buffer *buffer) {
  uint32_t depth = get(FORMAT) == MONO12 ? 2 : 1, channels = bytes_of_pixel() / depth;
  for (uint32_t y = 0; y < get(HEIGHT); y++)
    for (uint32_t x = 0; x < get(WIDTH) * channels; x++) {
      uint32_t value = (x + 10 * y + (uint32_t)frames) * (depth == 2 ? 16 : 1), at = y * get(WIDTH) * channels + x;
      if (depth == 2) ((uint16_t *)buffer->base)[at] = value & 0xfff;
      else ((uint8_t *)buffer->base)[at] = (uint8_t)value;
    }
  buffer->frame = frames;
  buffer->queued = 0;
}
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000; }
static void frame(void) {
  frames++;
  if (!waiting.count) return;
  int at = waiting.at[waiting.first];
  waiting.first = (waiting.first + 1) % BUFFERS, waiting.count--;
  expose(&buffers[at]);
  filled.at[(filled.first + filled.count++) % BUFFERS] = at;
}
static void run(void) { /* what the camera has done until now */
  if (!started || !get(START)) return;
  if (get(TRIGGER_MODE)) {
    if (get(SOFTWARE)) camera.value[SOFTWARE / 4] = 0, frame();
    return;
  }
  for (uint64_t due = (now() - begun) / 20; exposed < due; exposed++) frame();
}
int EventGetData(void *event, void *out, size_t *size, uint64_t ms) {
  for (uint64_t waited = 0; run(), !filled.count; waited++) {
    if (get(WIDTH) == 13) return ERR_IO;
    if (waited >= ms) return ERR_TIMEOUT;
    usleep(1000);
  }
  Buffer *buffer = &buffers[filled.at[filled.first]];
  filled.first = (filled.first + 1) % BUFFERS, filled.count--;
  void *data[2] = {buffer, buffer->user};
  return put(0, out, size, 0, data, sizeof data);
}

int DSClose(void *stream) { return OK; }
int DSGetParentDev(void *stream, void **device) { *device = &handle[2]; return OK; }
int DSGetInfo(void *stream, int command, int32_t *type, void *out, size_t *size) {
  if (command == 0) return text(type, out, size, "stream");
  if (command == 10) return text(type, out, size, "Custom");
  if (command == 8 || command == 9) return truth(type, out, size, command == 8 ? started : 1);
  if (command == 7) return length(type, out, size, get(PAYLOAD));
  if (command == 12 || command == 13) return length(type, out, size, 1);
  return command <= 6 ? word(type, out, size, command == 1 ? frames : (uint64_t)waiting.count) : ERR_NOT_IMPLEMENTED;
}
int DSAnnounceBuffer(void *stream, void *base, size_t size, void *user, void **buffer) {
  if (announced == BUFFERS) return ERR_NO_DATA;
  buffers[announced] = (Buffer){base, user, size, 0, 0};
  *buffer = &buffers[announced++];
  return OK;
}
int DSRevokeBuffer(void *stream, void *buffer, void **base, void **user) {
  if (base) *base = ((Buffer *)buffer)->base;
  if (user) *user = ((Buffer *)buffer)->user;
  return OK;
}
int DSQueueBuffer(void *stream, void *buffer) {
  run();
  waiting.at[(waiting.first + waiting.count++) % BUFFERS] = (int)((Buffer *)buffer - buffers);
  ((Buffer *)buffer)->queued = 1;
  return OK;
}
int DSGetBufferID(void *stream, uint32_t index, void **buffer) { *buffer = &buffers[index]; return (int)index < announced ? OK : ERR_INVALID_ID; }
int DSFlushQueue(void *stream, int operation) { waiting.count = filled.count = 0; return OK; }
int DSStartAcquisition(void *stream, int flags, uint64_t number) { started = 1, exposed = 0, begun = now(); return OK; }
int DSStopAcquisition(void *stream, int flags) { started = 0; return OK; }
int DSGetBufferInfo(void *stream, void *handle, int command, int32_t *type, void *out, size_t *size) {
  Buffer *buffer = handle;
  switch (command) {
    case 0: return put(type, out, size, PTR, &buffer->base, sizeof(void *));
    case 2: return put(type, out, size, PTR, &buffer->user, sizeof(void *));
    case 1: case 9: case 27: return length(type, out, size, command == 1 ? buffer->size : get(PAYLOAD));
    case 3: case 16: case 28: return word(type, out, size, buffer->frame);
    case 4: case 17: return truth(type, out, size, 1);
    case 5: return truth(type, out, size, (uint8_t)buffer->queued);
    case 6: case 7: case 29: case 30: return truth(type, out, size, command == 7 && get(WIDTH) == 14);
    case 8: return text(type, out, size, "Custom");
    case 10: case 11: case 22: return length(type, out, size, get(command == 10 ? WIDTH : HEIGHT));
    case 12: case 13: case 14: case 15: case 18: return length(type, out, size, 0);
    case 19: return length(type, out, size, 1);
    case 20: case 21: return word(type, out, size, command == 20 ? get(FORMAT) : 4);
    case 26: return number(type, out, size, 1);
    default: return ERR_NOT_IMPLEMENTED;
  }
}

int DSAllocAndAnnounceBuffer(void *stream, size_t size, void *user, void **buffer) { return ERR_NOT_IMPLEMENTED; }
int DSGetBufferChunkData(void *stream, void *buffer, void *chunks, size_t *number) { return ERR_NO_DATA; }
int DSGetNumBufferParts(void *stream, void *buffer, uint32_t *number) { return ERR_NOT_IMPLEMENTED; }
int DSGetBufferPartInfo(void *stream, void *buffer, uint32_t part, int command, int32_t *type, void *out, size_t *size) { return ERR_NOT_IMPLEMENTED; }
int GCReadPortStacked(void *port, void *entries, size_t *number) { return ERR_NOT_IMPLEMENTED; }
int GCWritePortStacked(void *port, void *entries, size_t *number) { return ERR_NOT_IMPLEMENTED; }
