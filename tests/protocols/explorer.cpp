#include "explorer.h"

#include <algorithm>
#include <string_view>
#include <unordered_set>

namespace cmpool::testing {

namespace {

constexpr std::size_t kStatesMax = 4'000'000;

using Kind = Instruction::Kind;
using View = std::array<std::uint8_t, kLocations>;  // by location: which of its values

void join(View& view, const View& other) noexcept {
    for (std::size_t at = 0; at < kLocations; ++at) view[at] = std::max(view[at], other[at]);
}

struct Written {
    Value value;
    View view;  // what who acquires it may not miss
};

struct Pending {
    Register into;
    Location from;
};

struct Thread {
    std::uint8_t at = 0;
    Registers registers{};
    View seen{};      // the oldest value of each location that it may still see
    View acquired{};  // what an acquire fence would add
    View released{};  // what a relaxed store hands on: what was seen at the last release fence
    std::vector<Pending> copies;
};

struct State {
    std::array<std::vector<Written>, kLocations> memory;
    std::vector<Thread> threads;
    View full{};  // what full fences hand on

    [[nodiscard]] std::string bytes() const {
        std::string out;
        const auto add = [&](const auto& array) { out.append(array.begin(), array.end()); };
        for (const auto& values : memory) {
            out.push_back(static_cast<char>(values.size()));
            for (const auto& each : values) {
                out.push_back(static_cast<char>(each.value));
                add(each.view);
            }
        }
        for (const Thread& thread : threads) {
            out.push_back(static_cast<char>(thread.at));
            add(thread.registers);
            add(thread.seen);
            add(thread.acquired);
            add(thread.released);
            for (const auto& each : thread.copies) {
                out.push_back(static_cast<char>(each.into));
                out.push_back(static_cast<char>(each.from));
            }
            out.push_back('|');
        }
        add(full);
        return out;
    }
};

class Explorer {
public:
    explicit Explorer(const std::vector<Program>& programs) : programs_(programs) {}

    Explored run(State first) {
        visit(std::move(first));
        return std::move(result_);
    }

private:
    [[nodiscard]] bool waits_for(const Thread& thread, Register what) const {
        return std::ranges::any_of(thread.copies, [&](const Pending& each) { return each.into == what; });
    }
    [[nodiscard]] bool over(const State& state, std::size_t which) const {
        return state.threads[which].at >= programs_[which].size();
    }

    void visit(State state) {
        if (result_.violation || !known_.insert(state.bytes()).second) return;
        if (++result_.states > kStatesMax) {
            result_.violation = "more states than can be looked at";
            return;
        }
        bool ended = true;
        for (std::size_t which = 0; which < state.threads.size(); ++which) {
            ended = ended && over(state, which);
            for (std::size_t copy = 0; copy < state.threads[which].copies.size(); ++copy)
                land(state, which, copy);
            if (!over(state, which)) step(state, which);
        }
        result_.ends += ended ? 1 : 0;
    }

    // One that is late takes place now, with any value that it may still see.
    void land(const State& state, std::size_t which, std::size_t copy) {
        const Pending pending = state.threads[which].copies[copy];
        const auto& values = state.memory[pending.from];
        for (std::size_t at = state.threads[which].seen[pending.from]; at < values.size(); ++at) {
            State next = state;
            Thread& thread = next.threads[which];
            thread.copies.erase(thread.copies.begin() + static_cast<std::ptrdiff_t>(copy));
            take(thread, pending.into, pending.from, at, values[at], false);
            go(std::move(next), which, "a copy takes place");
        }
    }

    static void take(Thread& thread, Register into, Location from, std::size_t at, const Written& value,
                     bool acquire) {
        thread.seen[from] = static_cast<std::uint8_t>(at);
        thread.registers[into] = value.value;
        join(thread.acquired, value.view);
        if (acquire) join(thread.seen, value.view);
    }

    void step(const State& state, std::size_t which) {
        const Instruction& now = programs_[which][state.threads[which].at];
        const auto& mine = state.threads[which];
        const bool ordered =
            now.kind == Kind::Fence || (now.kind == Kind::Store && now.order != Order::Relaxed);
        if (ordered && !mine.copies.empty()) return;
        State next = state;
        Thread& thread = next.threads[which];
        ++thread.at;
        switch (now.kind) {
            case Kind::Load: {
                const auto& values = state.memory[now.location];
                for (std::size_t at = mine.seen[now.location]; at < values.size(); ++at) {
                    State seen = next;
                    take(seen.threads[which], now.target, now.location, at, values[at],
                         now.order != Order::Relaxed);
                    go(std::move(seen), which, now.text);
                }
                return;
            }
            case Kind::Copy:
                thread.copies.push_back({now.target, now.location});
                break;
            case Kind::Store: {
                auto& values = next.memory[now.location];
                thread.seen[now.location] = static_cast<std::uint8_t>(values.size());
                View view = now.order == Order::Relaxed ? thread.released : thread.seen;
                view[now.location] = thread.seen[now.location];
                values.push_back({now.value, view});
                break;
            }
            case Kind::Fence:
                if (now.order != Order::Release) join(thread.seen, thread.acquired);
                if (now.order == Order::Full) {
                    join(thread.seen, next.full);
                    next.full = thread.seen;
                }
                if (now.order != Order::Acquire) thread.released = thread.seen;
                break;
            case Kind::Require:
                if (waits_for(mine, now.target)) return;
                if (mine.registers[now.target] != now.value) end(thread, which);
                break;
            case Kind::RequireSame:
                if (waits_for(mine, now.target) || waits_for(mine, now.other)) return;
                if (mine.registers[now.target] != mine.registers[now.other]) end(thread, which);
                break;
            case Kind::SkipIf:
                if (waits_for(mine, now.target)) return;
                if (mine.registers[now.target] == now.value)
                    thread.at = static_cast<std::uint8_t>(thread.at + now.skip);
                break;
            case Kind::Check:
                if (!mine.copies.empty()) return;
                if (!now.holds(mine.registers)) {
                    result_.violation = now.text + ", after:" + path_;
                    return;
                }
                break;
        }
        go(std::move(next), which, now.text);
    }

    void end(Thread& thread, std::size_t which) const {
        thread.at = static_cast<std::uint8_t>(programs_[which].size());
        thread.copies.clear();
    }

    void go(State next, std::size_t which, const std::string& what) {
        const std::size_t length = path_.size();
        path_ += "\n  thread " + std::to_string(which) + ": " + what;
        visit(std::move(next));
        path_.resize(length);
    }

    const std::vector<Program>& programs_;
    std::unordered_set<std::string> known_;
    std::string path_;
    Explored result_;
};

std::string_view name_of(Order order) noexcept {
    switch (order) {
        case Order::Relaxed:
            return "relaxed";
        case Order::Acquire:
            return "acquire";
        case Order::Release:
            return "release";
        default:
            return "full";
    }
}

}  // namespace

Instruction load(Register into, Location from, Order order) {
    return {.kind = Kind::Load,
            .order = order,
            .location = from,
            .target = into,
            .text = "load of " + std::to_string(from),
            .holds = {}};
}
Instruction copy(Register into, Location from) {
    return {.kind = Kind::Copy,
            .location = from,
            .target = into,
            .text = "copy of " + std::to_string(from),
            .holds = {}};
}
Instruction store(Location to, Value value, Order order) {
    return {.kind = Kind::Store,
            .order = order,
            .location = to,
            .value = value,
            .text = "store of " + std::to_string(value) + " to " + std::to_string(to),
            .holds = {}};
}
Instruction fence(Order order) {
    return {.kind = Kind::Fence, .order = order, .text = std::string(name_of(order)) + " fence", .holds = {}};
}
Instruction require(Register what, Value value) {
    return {.kind = Kind::Require, .target = what, .value = value, .text = "looks at it", .holds = {}};
}
Instruction require_same(Register one, Register other) {
    return {.kind = Kind::RequireSame, .target = one, .other = other, .text = "compares", .holds = {}};
}
Instruction skip_if(Register what, Value value, std::uint8_t instructions) {
    return {.kind = Kind::SkipIf,
            .target = what,
            .value = value,
            .skip = instructions,
            .text = "decides",
            .holds = {}};
}
Instruction check(std::string text, std::function<bool(const Registers&)> holds) {
    return {.kind = Kind::Check, .text = std::move(text), .holds = std::move(holds)};
}

Explored explore(const std::vector<Program>& programs, const std::array<Value, kLocations>& initial) {
    State first;
    for (std::size_t at = 0; at < kLocations; ++at) first.memory[at].push_back({initial[at], {}});
    first.threads.resize(programs.size());
    return Explorer(programs).run(std::move(first));
}

std::vector<Mutation> mutations(const std::vector<Program>& programs) {
    std::vector<Mutation> all;
    for (std::size_t which = 0; which < programs.size(); ++which) {
        for (std::size_t at = 0; at < programs[which].size(); ++at) {
            const Instruction& now = programs[which][at];
            if (now.order == Order::Relaxed) continue;
            Mutation mutation{programs, "thread " + std::to_string(which) + ", " + std::to_string(at) + ": " +
                                            now.text + (now.kind == Kind::Fence ? " gone" : " relaxed")};
            Instruction& weaker = mutation.programs[which][at];
            weaker.order = Order::Relaxed;
            if (now.kind == Kind::Load) weaker = copy(now.target, now.location);  // it may be late, then
            if (now.kind == Kind::Fence) weaker = skip_if(kRegisters - 1, 0xff, 0);
            all.push_back(std::move(mutation));
        }
    }
    return all;
}

}  // namespace cmpool::testing
