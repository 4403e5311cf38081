#include <cmpool/meta/store.h>

namespace cmpool::meta {

Result<std::optional<std::string>> Store::get(std::string_view key) {
    auto found = read(key);
    if (!found) return fail(found.error());
    if (!*found) return std::nullopt;
    return std::move((*found)->value);
}

Result<void> Store::apply(std::span<const Entry> batch) {
    if (auto written = write(batch, {}); !written) return fail(written.error());
    return {};
}

}  // namespace cmpool::meta
