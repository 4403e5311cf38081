#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include <cmpool/base/result.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/namespace.h>
#include <cmpool/wire/messages.h>

namespace cmpool::pool {

using model::Credential;
using model::NamespaceRecord;

/// What a pool server asks of meta; never on the data path.
///
///   Threads  called by the server's thread; `done` is called on that thread too, at once or later,
///            exactly once
///   Errors   Denied: the tenant belongs to somebody else (says how it is proven). Mismatch: the
///            fingerprint is not that of the specification (both sides printed)
class Directory {
public:
    using OpenDone = std::function<void(Result<NamespaceRecord>)>;
    virtual ~Directory() = default;
    virtual void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                                const Credential& credential, OpenDone done) = 0;

    /// A question that is meta's to answer: about views, members, other nodes' namespaces. `uid` is the
    /// kernel's word on who asks.
    using AskDone = std::function<void(Result<wire::Body>)>;
    virtual void ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) = 0;
    /// The lane on which a member had joined has ended.
    virtual void lane_lost(std::uint64_t /*node_id*/, std::uint64_t /*incarnation*/) {}
    /// A client knows of a later epoch than we do.
    virtual void behind(std::uint64_t /*epoch*/) {}
};

/// Tells whether a client's process still runs: a pin on one host ends with the process that
/// published it, since a paused reader outlives any clock.
class ProcessWatch {
public:
    class Handle {
    public:
        virtual ~Handle() = default;
        [[nodiscard]] virtual bool alive() const noexcept = 0;
    };
    virtual ~ProcessWatch() = default;
    /// Null when the process is gone already, or cannot be seen from here.
    [[nodiscard]] virtual std::unique_ptr<Handle> watch(std::int32_t pid) = 0;
};

}  // namespace cmpool::pool
