#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::loop {

inline constexpr std::uint64_t kProtocol = 1;
inline constexpr std::size_t kTokensMax = 128 * 1024;  ///< of a prompt: what fits a message's head
inline constexpr std::size_t kStopTokensMax = 64;
inline constexpr std::size_t kTextBytesMax = 4096;
inline constexpr std::size_t kDescriptorBytesMax = 1024;
inline constexpr std::size_t kStatisticsMax = 256;

/// Each kind with the fields that it uses.
enum class Kind : std::uint8_t {
    Hello = 1,  ///< id: kProtocol; text: who must be equal on both sides; names, values: facts
    Attach,     ///< decode, on a lane for KV bytes: session, descriptor, secret of its pages
    Attached,   ///< prefill: session; or code and text, and no hand-off over this lane
    Generate,   ///< router: id, tokens, output_max, stop_tokens
    Given,      ///< decode: id, tokens (new ones), finish, reused; or code and text, which end it
    Prefill,    ///< decode: id, session, tokens, pages (of the session's segment)
    Prefilled,  ///< prefill, on the KV lane, after the pages: id, tokens (the first), reused, pending
    Failed,     ///< prefill: id, code, text, pending; nothing is written to the pages any more
    Cancel,     ///< id of a Generate or Prefill; the other side's last word on it still comes
    StatsAsk,   ///< id
    Stats,      ///< id, names, values
};

struct Message {
    Kind kind = Kind::Hello;
    std::uint64_t id = 0;
    std::uint64_t session = 0;
    std::uint64_t secret = 0;
    std::vector<std::uint32_t> tokens;
    std::vector<std::uint32_t> pages;
    std::vector<std::uint32_t> stop_tokens;
    std::uint64_t output_max = 0;
    std::uint8_t finish = 0;  ///< engine::Finish
    std::uint16_t code = 0;   ///< Errc, 0: none
    std::string text;
    std::uint64_t reused = 0;   ///< prompt tokens from a cache
    std::uint64_t pending = 0;  ///< prompt tokens that a prefill worker has still to compute
    std::vector<std::byte> descriptor;
    std::vector<std::string> names;
    std::vector<std::uint64_t> values;

    friend bool operator==(const Message&, const Message&) = default;
};

[[nodiscard]] std::vector<std::byte> encode(const Message& message);
/// Errors: Invalid for anything that encode() does not make, or that is above a limit.
[[nodiscard]] Result<Message> decode(Bytes head);

}  // namespace cmpool::loop
