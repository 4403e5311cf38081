#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

// Runs small programs of a few threads in every order that a weakly ordered machine may show them.
namespace cmpool::testing {

inline constexpr std::size_t kLocations = 8;
inline constexpr std::size_t kRegisters = 8;

using Location = std::uint8_t;
using Register = std::uint8_t;
using Value = std::uint8_t;
using Registers = std::array<Value, kRegisters>;

enum class Order : std::uint8_t { Relaxed, Acquire, Release, Full };

/// One instruction. An order may be weakened, and a fence taken away, to see whether that is noticed.
struct Instruction {
    enum class Kind : std::uint8_t { Load, Copy, Store, Fence, Require, RequireSame, SkipIf, Check };
    Kind kind;
    Order order = Order::Relaxed;
    Location location = 0;
    Register target = 0;
    Register other = 0;
    Value value = 0;
    std::uint8_t skip = 0;
    std::string text;  ///< of what is at stake, for a violation and for a mutation
    std::function<bool(const Registers&)> holds;
};
using Program = std::vector<Instruction>;

[[nodiscard]] Instruction load(Register into, Location from, Order order = Order::Relaxed);
/// A load that may take place as late as its value is needed, or as something orders it.
[[nodiscard]] Instruction copy(Register into, Location from);
[[nodiscard]] Instruction store(Location to, Value value, Order order = Order::Relaxed);
[[nodiscard]] Instruction fence(Order order);
/// Else the thread ends: a miss.
[[nodiscard]] Instruction require(Register what, Value value);
[[nodiscard]] Instruction require_same(Register one, Register other);
[[nodiscard]] Instruction skip_if(Register what, Value value, std::uint8_t instructions);
[[nodiscard]] Instruction check(std::string text, std::function<bool(const Registers&)> holds);

struct Explored {
    std::size_t states = 0;
    std::size_t ends = 0;                  ///< states in which all threads have ended
    std::optional<std::string> violation;  ///< what does not hold, and the steps that led there
};

/// Every behaviour of the programs side by side, from memory that holds `initial`.
///
/// The memory is C++'s without load buffering out of thin air: a location keeps all its values, a thread
/// has for each location the oldest value that it may still see, and release, acquire and full fences hand
/// such views on (after Kang et al., "A promising semantics", POPL 2017, without promises). Copies may in
/// addition take place late, behind stores that follow them, as Arm does it. Each location has one writer.
///
///   Limits  kStatesMax states, else a violation that says so
[[nodiscard]] Explored explore(const std::vector<Program>& programs,
                               const std::array<Value, kLocations>& initial);

/// A program in which one thing is weaker, and what.
struct Mutation {
    std::vector<Program> programs;
    std::string what;
};
/// Each fence taken away, each ordered load and store relaxed, one at a time.
[[nodiscard]] std::vector<Mutation> mutations(const std::vector<Program>& programs);

}  // namespace cmpool::testing
