#pragma once

#include "messages_generated.h"

#include <bit>
#include <cstddef>

#include <cmpool/wire/messages.h>

// The fixed-size structs of the schema lie in memory as ours do, so lists of them need no copying.
namespace cmpool::wire {

static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(model::Digest) == sizeof(fb::Digest));
static_assert(sizeof(PutItem) == sizeof(fb::PutItem));
static_assert(alignof(PutItem) == alignof(fb::PutItem));
static_assert(offsetof(PutItem, window_offset) == 16 && offsetof(PutItem, position) == 28);
static_assert(offsetof(PutItem, digest) == 40 && offsetof(PutItem, parent) == 72 && sizeof(PutItem) == 104);
static_assert(sizeof(model::ByteRange) == sizeof(fb::Range) && offsetof(model::ByteRange, length) == 4);
static_assert(sizeof(ListedBlock) == sizeof(fb::ListedBlock) && offsetof(ListedBlock, digest) == 16);
static_assert(sizeof(Place) == sizeof(fb::Place) && offsetof(Place, slot) == 16 && sizeof(Place) == 24);
static_assert(sizeof(Outcome) == 1);

}  // namespace cmpool::wire
