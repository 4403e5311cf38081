#include <cmpool/engine/context.h>

namespace cmpool::engine {

client::NamespaceSpec namespace_of(const Model& model, const BlockShape& shape) {
    // The revision names weights and block size, so that either changed is another namespace and not
    // a refusal.
    const auto weights = model::plain_digest(model::DigestKind::Fingerprint, as_bytes(model.identity()));
    return {.model = "cmpool-engine",
            .revision = fmt::format("{}-b{}", to_hex(weights.bytes).substr(0, 16), shape.tokens),
            .dtype = "f32",
            .layout = fmt::format("layers {} x kv {} x tokens {} x heads {} x dim {}", shape.layers,
                                  shape.parts, shape.tokens, shape.kv_heads, shape.head_dim),
            .parallel = "1",
            .engine = model.identity().substr(0, model::kNameBytesMax),
            .block_tokens = shape.tokens};
}

client::KvPages pages_of(PagedKv& kv) {
    const BlockShape& shape = kv.shape();
    return {.layers = shape.layers,
            .parts = shape.parts,
            .heads = shape.kv_heads,
            .head_size = shape.head_dim,
            .elem_bytes = shape.elem_bytes,
            .block_tokens = shape.tokens,
            .memory = kv.bytes()};
}

Result<std::unique_ptr<client::ContextCache>> open_cache(std::string_view uri, const Model& model,
                                                         PagedKv& kv, client::ContextCacheOptions options) {
    if (uri == "none") return nullptr;
    return client::open_context_cache(uri, namespace_of(model, kv.shape()), pages_of(kv), std::move(options));
}

}  // namespace cmpool::engine
