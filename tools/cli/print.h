#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>
#include <cmpool/client/pool_client.h>

#include <nlohmann/json.hpp>

namespace cmpool::cli {

/// Members stay in the order in which they were written.
using Json = nlohmann::ordered_json;

/// "1,234,567".
[[nodiscard]] std::string grouped(std::uint64_t number);
/// "42 s", "3.5 min", "2.1 h", "4.0 d".
[[nodiscard]] std::string format_age(std::uint64_t age_ms);
[[nodiscard]] std::string hex(const client::Digest& digest);
[[nodiscard]] double milliseconds(Nanos time);

/// Breaks a text between words, so that lines that begin in column `indent` stay below column 100.
[[nodiscard]] std::string wrapped(std::string_view text, std::size_t indent);

/// One line of JSON. Bytes that are no UTF-8, as in a key, become U+FFFD.
void print_json(const Json& object);

/// Says on stderr what went wrong, after the program's name.
void complain(std::string_view sentence);

/// Writes bytes to standard output, or to a file that then holds nothing else.
/// Errors: NoCapacity with the system's reason.
[[nodiscard]] Result<void> write_out(Bytes bytes, const std::string& file);

}  // namespace cmpool::cli
