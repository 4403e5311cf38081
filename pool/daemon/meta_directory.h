#pragma once

#include "data_loop.h"
#include "meta_thread.h"

#include <cmpool/pool/directory.h>

namespace cmpool::daemon {

/// A shard's questions to meta, asked on the meta thread and answered on the shard's.
///
///   Lifetime  the thread's end comes before the loop's
///   Limits    MetaThread::kJobsMax questions under way; one more is answered with Again
class MetaDirectory final : public pool::Directory {
public:
    MetaDirectory(MetaThread& thread, DataLoop& loop) : thread_(thread), loop_(loop) {}

    void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                        const pool::Credential& credential, OpenDone done) override;
    void ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) override;
    void lane_lost(std::uint64_t node_id, std::uint64_t incarnation) override;
    void behind(std::uint64_t epoch) override;

private:
    template <class Done>
    [[nodiscard]] auto back(Done done);

    MetaThread& thread_;
    DataLoop& loop_;
};

}  // namespace cmpool::daemon
