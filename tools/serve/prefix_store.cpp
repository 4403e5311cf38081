#include "prefix_store.h"

namespace cmpool::serve {

Result<std::unique_ptr<engine::PrefixStore>> make_prefix_store(const std::string& uri, const engine::Model&,
                                                               engine::PagedKv&) {
    if (uri == "none") return nullptr;
    return fail(Errc::Unsupported, "built without pool: expected --pool none, saw \"{}\"", uri);
}

}  // namespace cmpool::serve
