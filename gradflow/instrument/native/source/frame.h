// A call frame of XLA's foreign function interface, read through its C header alone.
#pragma once

#include <cstdint>
#include <cstring>

#include "xla/c_api.h"

namespace gradflow {

inline XLA_FFI_Error* error(const XLA_FFI_CallFrame* frame, const char* message) {
  XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message,
                                    XLA_FFI_Error_Code_INVALID_ARGUMENT};
  return frame->api->XLA_FFI_Error_Create(&args);
}

// XLA asks a handler for its version before it calls it. Returns whether this was such a question.
inline bool answered(XLA_FFI_CallFrame* frame) {
  for (XLA_FFI_Extension_Base* e = frame->extension_start; e; e = e->next) {
    if (e->type != XLA_FFI_Extension_Metadata) continue;
    XLA_FFI_Metadata* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(e)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    metadata->traits = 0;
    if (metadata->struct_size >= offsetof(XLA_FFI_Metadata, state_type_id) + sizeof(XLA_FFI_TypeId)) {
      metadata->state_type_id = XLA_FFI_TypeId{0};
    }
    return true;
  }
  return false;
}

// A scalar attribute of 8 bytes; false where there is none of that name and type.
inline bool attribute(const XLA_FFI_CallFrame* frame, const char* name, XLA_FFI_DataType dtype, void* out) {
  size_t length = std::strlen(name);
  for (int64_t k = 0; k < frame->attrs.size; k++) {
    const XLA_FFI_ByteSpan* span = frame->attrs.names[k];
    if (span->len != length || std::memcmp(span->ptr, name, length)) continue;
    if (frame->attrs.types[k] != XLA_FFI_AttrType_SCALAR) return false;
    const XLA_FFI_Scalar* scalar = static_cast<const XLA_FFI_Scalar*>(frame->attrs.attrs[k]);
    if (scalar->dtype != dtype) return false;
    std::memcpy(out, scalar->value, 8);
    return true;
  }
  return false;
}

inline const XLA_FFI_Buffer* argument(const XLA_FFI_CallFrame* frame, int64_t k) {
  bool is_there = k < frame->args.size && frame->args.types[k] == XLA_FFI_ArgType_BUFFER;
  return is_there ? static_cast<const XLA_FFI_Buffer*>(frame->args.args[k]) : nullptr;
}

inline const XLA_FFI_Buffer* result(const XLA_FFI_CallFrame* frame) {
  bool is_there = frame->rets.size == 1 && frame->rets.types[0] == XLA_FFI_RetType_BUFFER;
  return is_there ? static_cast<const XLA_FFI_Buffer*>(frame->rets.rets[0]) : nullptr;
}

}  // namespace gradflow
