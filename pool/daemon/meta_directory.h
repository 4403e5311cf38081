#pragma once

#include "data_loop.h"
#include "meta_thread.h"

#include <cmpool/meta/controller.h>
#include <cmpool/pool/directory.h>

namespace cmpool::daemon {

/// A shard's questions to the controller, asked on the meta thread and answered on the shard's.
///
///   Lifetime  the thread's end comes before the controller's and the loop's
///   Limits    MetaThread::kJobsMax questions under way; one more is answered with Again
class MetaDirectory final : public pool::Directory {
public:
    MetaDirectory(meta::Controller& controller, MetaThread& thread, DataLoop& loop)
        : controller_(controller), thread_(thread), loop_(loop) {}

    void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                        const pool::Credential& credential, OpenDone done) override;

private:
    meta::Controller& controller_;
    MetaThread& thread_;
    DataLoop& loop_;
};

}  // namespace cmpool::daemon
