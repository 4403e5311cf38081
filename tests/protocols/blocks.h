#pragma once

#include "explorer.h"

// A block's words, and what its owner and its readers do with them. The words and fences are those of
// model/index_layout.h, pool/src/index_writer.cpp and domain_store.cpp (the owner), and
// client/src/attachment.cpp (the reader): who changes one changes the other.
namespace cmpool::testing {

// Of the index: a slot's two words, which read 0 where it is empty. Of a block: its header's digest, and its
// payload. All blocks lie in the same extent, so the location word is the same; their tags differ.
inline constexpr Location kSlotLocation = 0, kSlotTag = 1, kDigest = 2, kPayload = 3, kPayloadEnd = 4,
                          kPin = 5, kOtherPin = 6;
inline constexpr Value kHere = 1;
inline constexpr Value kOld = 1, kNew = 2, kNewer = 3;
inline constexpr std::array<Value, kLocations> kOldIsThere{kHere, kOld, kOld, kOld, kOld};

void append(Program& program, const Program& more);

// The owner's.
[[nodiscard]] Program clear();
[[nodiscard]] Program fill(Value block);
[[nodiscard]] Program publish(Value block);

// A reader's.
[[nodiscard]] Program find(Value block);
[[nodiscard]] Program copy_out();
[[nodiscard]] Program look_again();
[[nodiscard]] Instruction whole(Value block);
[[nodiscard]] Program reader_of(Value block);
/// Pins, and reads without looking again, for as long as the pin stands.
[[nodiscard]] Program reader_that_pins(Value block, Location pin);

struct Weakened {
    std::vector<std::string> noticed;
    std::vector<std::string> not_noticed;  ///< what something else implies
};
/// Weakens one thing at a time.
[[nodiscard]] Weakened weaken(const std::vector<Program>& programs,
                              const std::array<Value, kLocations>& initial);
/// Checks that it holds in every order, and that all threads can end.
void holds(const std::vector<Program>& programs, const std::array<Value, kLocations>& initial);

}  // namespace cmpool::testing
