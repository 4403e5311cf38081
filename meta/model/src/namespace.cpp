#include <array>
#include <span>
#include <string_view>

#include <cmpool/model/namespace.h>

namespace cmpool::model {
namespace {

constexpr std::string_view kHashScheme = "blake2b-256-keyed/kind,parent,u32le/1";

struct Field {
    std::string_view name;
    std::string value;
};

/// The last one only where it is set: what knew nothing of it keeps its fingerprint.
constexpr std::size_t kFields = 9;

std::array<Field, kFields> fields_of(const NamespaceSpec& spec) {
    return {{{"model", spec.model},
             {"revision", spec.revision},
             {"dtype", spec.dtype},
             {"layout", spec.layout},
             {"parallel", spec.parallel},
             {"engine", spec.engine},
             {"block_tokens", std::to_string(spec.block_tokens)},
             {"group_blocks", std::to_string(spec.group_blocks)},
             {"sealed", spec.sealed ? "yes" : "no"}}};
}

/// Those that make the fingerprint.
std::size_t count_of(const NamespaceSpec& spec) { return spec.sealed ? kFields : kFields - 1; }

}  // namespace

Result<void> NamespaceSpec::check() const {
    if (tenant.empty()) return fail(Errc::Invalid, "expected a tenant, saw an empty name");
    if (model.empty()) return fail(Errc::Invalid, "expected a model's name, saw an empty one");
    if (tenant.size() > kNameBytesMax) {
        return fail(Errc::Invalid, "expected a tenant of at most {} bytes, saw {}", kNameBytesMax,
                    tenant.size());
    }
    for (const auto& [name, value] : fields_of(*this)) {
        if (value.size() <= kNameBytesMax) continue;
        return fail(Errc::Invalid, "expected {} of at most {} bytes, saw {}", name, kNameBytesMax,
                    value.size());
    }
    if (group_blocks == 0 || group_blocks > kBatchMax) {
        return fail(Errc::Invalid, "expected group_blocks from 1 to {}, saw {}", kBatchMax, group_blocks);
    }
    return {};
}

Digest NamespaceSpec::fingerprint() const {
    // Each field with its length, so that no two specifications run into the same bytes.
    std::string canonical = fmt::format("{}:{};", kHashScheme.size(), kHashScheme);
    const auto fields = fields_of(*this);
    for (const auto& [name, value] : std::span(fields).first(count_of(*this)))
        fmt::format_to(std::back_inserter(canonical), "{}={}:{};", name, value.size(), value);
    return plain_digest(DigestKind::Fingerprint, as_bytes(canonical));
}

std::string NamespaceSpec::describe() const {
    std::string text;
    const auto fields = fields_of(*this);
    for (const auto& [name, value] : std::span(fields).first(count_of(*this))) {
        fmt::format_to(std::back_inserter(text), "{}{}={}", text.empty() ? "" : " ", name,
                       value.empty() ? "-" : value);
    }
    return text;
}

std::string difference(const NamespaceSpec& ours, const NamespaceSpec& theirs) {
    std::string text;
    const auto left = fields_of(ours);
    const auto right = fields_of(theirs);
    for (std::size_t index = 0; index < left.size(); ++index) {
        if (left[index].value == right[index].value) continue;
        fmt::format_to(std::back_inserter(text), "{}{}: ours \"{}\", theirs \"{}\"", text.empty() ? "" : "; ",
                       left[index].name, left[index].value, right[index].value);
    }
    return text;
}

Result<void> QuotaChange::check() const {
    if (priority.value_or(0) > kPriorityMax)
        return fail(Errc::Invalid, "expected a priority up to {}, saw {}", kPriorityMax, *priority);
    if (ttl_s.value_or(0) > kTtlMax)
        return fail(Errc::Invalid, "expected a life of blocks up to {} s, saw {}", kTtlMax, *ttl_s);
    return {};
}

void QuotaChange::apply(Quota& quota) const noexcept {
    quota = {bytes.value_or(quota.bytes), priority.value_or(quota.priority), ttl_s.value_or(quota.ttl_s)};
}

}  // namespace cmpool::model
