#include "meta_directory.h"

#include <memory>
#include <utility>

namespace cmpool::daemon {
namespace {

tl::unexpected<Error> too_many() {
    return fail(Errc::Again, "expected less than {} questions to meta at once: try again",
                MetaThread::kJobsMax);
}

}  // namespace

/// What calls `done` on the shard's thread.
template <class Done>
auto MetaDirectory::back(Done done) {
    return [this, done = std::make_shared<Done>(std::move(done)), peer = loop_.serving()](auto answer) {
        loop_.post([this, done, peer, answer = std::move(answer)] {
            (*done)(answer);
            // It may have waited for this with more that it had read already.
            loop_.wake(peer);
        });
    };
}

void MetaDirectory::open_namespace(const model::NamespaceSpec& spec, const model::Digest& fingerprint,
                                   const pool::Credential& credential, OpenDone done) {
    auto answer = back(done);
    const bool posted = thread_.post([spec, fingerprint, credential, answer](meta::Office& office) {
        office.open_namespace(spec, fingerprint, credential, answer);
    });
    if (!posted) done(too_many());
}

void MetaDirectory::ask(wire::Body question, std::optional<std::uint32_t> uid, AskDone done) {
    auto answer = back(done);
    const bool posted = thread_.post([question = std::move(question), uid, answer](meta::Office& office) {
        office.ask(question, uid, answer);
    });
    if (!posted) done(too_many());
}

// Where these two are dropped a lease ends a little later, and a view comes a little later.
void MetaDirectory::lane_lost(std::uint64_t node_id, std::uint64_t incarnation) {
    (void)thread_.post([=](meta::Office& office) { office.lane_lost(node_id, incarnation); });
}

void MetaDirectory::behind(std::uint64_t epoch) {
    (void)thread_.post([=](meta::Office& office) { office.behind(epoch); });
}

}  // namespace cmpool::daemon
