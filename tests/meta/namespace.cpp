#include <functional>
#include <set>
#include <vector>

#include <cmpool/model/namespace.h>

using namespace cmpool;
using model::NamespaceSpec;

namespace {

NamespaceSpec llama() {
    return {.tenant = "acme",
            .model = "meta-llama/Llama-3-8B",
            .revision = "1",
            .dtype = "bf16",
            .layout = "layers,kv,tokens,heads,dim",
            .parallel = "tp1",
            .engine = "cmpool-engine 1",
            .block_tokens = 16};
}

std::string fingerprint(const NamespaceSpec& spec) { return to_hex(spec.fingerprint().bytes); }

}  // namespace

// From Python: hashlib.blake2b(b"\x03" + canonical, digest_size=32), where canonical is the hash scheme
// as LENGTH:TEXT; and then each field as NAME=LENGTH:VALUE;
TEST_CASE("a fingerprint has the known answer") {
    CHECK(fingerprint(llama()) == "152bd020c10e66ab4f22bbbba2a8e74fc7f393010ff6a2b69b4ff9aa5a700642");
}

TEST_CASE("every field but the tenant makes another fingerprint, and difference() names it") {
    struct Change {
        const char* field;
        std::function<void(NamespaceSpec&)> apply;
    };
    const std::vector<Change> changes{
        {"model", [](auto& spec) { spec.model += "x"; }},
        {"revision", [](auto& spec) { spec.revision += "x"; }},
        {"dtype", [](auto& spec) { spec.dtype = "f32"; }},
        {"layout", [](auto& spec) { spec.layout += "x"; }},
        {"parallel", [](auto& spec) { spec.parallel = "tp2"; }},
        {"engine", [](auto& spec) { spec.engine += "x"; }},
        {"block_tokens", [](auto& spec) { spec.block_tokens = 32; }},
        {"group_blocks", [](auto& spec) { spec.group_blocks = 1; }},
        {"sealed", [](auto& spec) { spec.sealed = true; }},
    };
    std::set<std::string> seen{fingerprint(llama())};
    for (const auto& [field, apply] : changes) {
        CAPTURE(field);
        auto changed = llama();
        apply(changed);
        CHECK(seen.insert(fingerprint(changed)).second);
        const auto text = model::difference(llama(), changed);
        CHECK(text.find(std::string(field) + ": ours ") == 0);
        CHECK(text.find(';') == std::string::npos);
    }
    auto elsewhere = llama();
    elsewhere.tenant = "other";
    CHECK(fingerprint(elsewhere) == fingerprint(llama()));
}

TEST_CASE("a field's end cannot be mistaken for the next one's beginning") {
    auto one = llama();
    auto other = llama();
    one.model = "ab";
    one.revision = "c";
    other.model = "a";
    other.revision = "bc";
    CHECK(fingerprint(one) != fingerprint(other));
    one.revision = "1:x;dtype=1:y";
    other = one;
    other.revision = "1:x;dtype=1:";
    other.dtype = "y" + one.dtype;
    CHECK(fingerprint(one) != fingerprint(other));
}

TEST_CASE("difference() shows both sides of all that differs, and nothing for equals") {
    auto theirs = llama();
    theirs.dtype = "f32";
    theirs.block_tokens = 32;
    CHECK(model::difference(llama(), theirs) ==
          "dtype: ours \"bf16\", theirs \"f32\"; block_tokens: ours \"16\", theirs \"32\"");
    CHECK(model::difference(llama(), llama()).empty());
}

TEST_CASE("a specification that cannot be is refused with what was seen") {
    CHECK(llama().check());
    auto spec = llama();
    spec.model = "";
    CHECK(spec.check().error().code == Errc::Invalid);
    spec = llama();
    spec.tenant = "";
    CHECK_FALSE(spec.check());
    spec = llama();
    spec.engine = std::string(model::kNameBytesMax + 1, 'e');
    CHECK(spec.check().error().detail.find("513") != std::string::npos);
    spec = llama();
    spec.group_blocks = 0;
    CHECK_FALSE(spec.check());
    spec.group_blocks = model::kBatchMax + 1;
    CHECK_FALSE(spec.check());
}
