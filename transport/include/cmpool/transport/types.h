#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/result.h>

namespace cmpool::transport {

/// What a peer may do with a segment; a property of the segment, not of the access. Write implies
/// Read and Atomic implies both, as on every fabric we know (Source: URMA's access lattice).
enum class Access : std::uint8_t { None = 0, Read = 1, ReadWrite = 3, Atomic = 7 };

[[nodiscard]] constexpr bool allows(Access granted, Access wanted) noexcept {
    return (static_cast<unsigned>(granted) & static_cast<unsigned>(wanted)) == static_cast<unsigned>(wanted);
}

/// How imported memory can be loaded from. Coherent: plain loads see the owner's stores.
enum class MapKind : std::uint8_t { None, Coherent };

/// Which other accesses a remote atomic is atomic with: no other one, those of the same device,
/// or those of the target's CPUs too.
enum class Atomics : std::uint8_t { None, Device, Cpu };

/// What a back end can do. Algorithms choose by these, never by a back end's name.
struct Caps {
    bool one_sided = false;     ///< read and write cost the target's CPU nothing
    bool hard_revoke = false;   ///< after revoke() no access starts or lands any more
    bool pull = false;          ///< plain memory of the peer process can be read (a process window)
    bool ordered = false;       ///< messages of one lane arrive in the order of posting
    bool exposes_pool = false;  ///< pool segments may be handed to clients over this back end
    MapKind map = MapKind::None;
    Atomics atomics = Atomics::None;
    std::uint32_t lane_depth = 0;         ///< operations in flight on one lane
    std::uint64_t op_bytes_max = 0;       ///< of one one-sided operation
    std::uint64_t head_bytes_max = 0;     ///< of a message's head
    std::uint64_t payload_bytes_max = 0;  ///< of a message's payload
};

/// A secret that opens one segment. Checked by whoever executes the access; travels only inside
/// messages of a lane that the application trusts, never in a descriptor.
struct Token {
    std::uint64_t value = 0;
    friend bool operator==(Token, Token) noexcept = default;
};

/// Names a segment for import: a versioned envelope that only the same back end can read. No secret.
struct Descriptor {
    std::vector<std::byte> bytes;
};

enum class OpKind : std::uint8_t { Read, Write, WriteNotify, Send, Cas, FetchAdd, Import };

class RemoteSegment;

/// One operation of a batch.
///
///   Units     `offset`, `notify_offset` in bytes inside `remote`; notify words and atomics are
///             aligned 8-byte words
///   Lifetime  the spans' arrays may die when post() returns; the memory they name is the lane's
///             until the operation completes or quiesce() has returned
struct Op {
    OpKind kind = OpKind::Send;
    bool signal = true;      ///< false: no completion unless it fails
    bool fence = false;      ///< starts after all earlier reads and atomics of the lane are done
    bool delivered = false;  ///< Write: completes only when visible to the target's CPUs
    const RemoteSegment* remote = nullptr;
    std::uint64_t offset = 0;
    std::span<const MutableBytes> scatter;  ///< Read: where the bytes go, in order
    std::span<const Bytes> gather;          ///< Write, WriteNotify, Send: where they come from
    Bytes head;                             ///< Send: the message's head; copied by post()
    std::uint64_t operand = 0;  ///< WriteNotify: the word stored; Cas: the new word; FetchAdd: what is added
    std::uint64_t compare = 0;  ///< Cas: the expected word
    std::uint64_t notify_offset = 0;  ///< WriteNotify: where the word goes, after the payload
    std::uint64_t cookie = 0;         ///< comes back in the completion
};

/// How an operation ended. `error` empty: done, and what `OpKind` promises holds.
struct Completion {
    std::uint64_t cookie = 0;
    OpKind kind = OpKind::Send;
    std::uint64_t bytes = 0;
    std::uint64_t value = 0;  ///< Cas, FetchAdd: the word before
    std::optional<Errc> error;
};

/// What the back end knows about the other end of a lane, without asking it.
struct PeerIdentity {
    bool same_host = false;
    std::optional<std::uint32_t> uid;  ///< the kernel's word, where it has one (shm)
    std::optional<std::int32_t> pid;
    std::string address;  ///< for people
};

}  // namespace cmpool::transport
