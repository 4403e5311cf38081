#pragma once

#include "data_loop.h"
#include "meta_thread.h"

#include <cmpool/meta/controller.h>
#include <cmpool/pool/directory.h>

#include <asio/io_context.hpp>

namespace cmpool::daemon {

/// The pool's questions to the controller, asked on the meta thread and answered on the data thread.
///
///   Lifetime  the thread's end comes before the controller's and the loop's
///   Limits    MetaThread::kJobsMax questions under way; one more is answered with Again
class MetaDirectory final : public pool::Directory {
public:
    MetaDirectory(meta::Controller& controller, MetaThread& thread, asio::io_context& io, DataLoop& loop)
        : controller_(controller), thread_(thread), io_(io), loop_(loop) {}

    void open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                        const pool::Credential& credential, OpenDone done) override;

private:
    meta::Controller& controller_;
    MetaThread& thread_;
    asio::io_context& io_;
    DataLoop& loop_;
};

}  // namespace cmpool::daemon
