#include "meta_directory.h"

#include <memory>
#include <utility>

namespace cmpool::daemon {

void MetaDirectory::open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                                   const pool::Credential& credential, OpenDone done) {
    const auto shared_done = std::make_shared<OpenDone>(std::move(done));
    const bool posted =
        thread_.post([this, spec, fingerprint, credential, shared_done, peer = loop_.serving()] {
            auto record = controller_.open_namespace(spec, fingerprint, credential);
            loop_.post([this, shared_done, peer, record = std::move(record)] {
                (*shared_done)(record);
                // It may have waited for this with more that it had read already.
                loop_.wake(peer);
            });
        });
    if (posted) return;
    (*shared_done)(fail(Errc::Again, "expected less than {} namespaces being opened at once: try again",
                        MetaThread::kJobsMax));
}

}  // namespace cmpool::daemon
