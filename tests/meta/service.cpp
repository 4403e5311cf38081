#include <fstream>
#include <set>

#include <cmpool/base/rng.h>
#include <cmpool/meta/controller.h>
#include <cmpool/meta/membership.h>
#include <cmpool/meta/memory_store.h>
#include <cmpool/meta/office.h>
#include <cmpool/testing/temp_folder.h>

using namespace cmpool;
using meta::Controller;
using meta::MemoryStore;
using model::Credential;
using model::NamespaceSpec;

namespace {

NamespaceSpec spec_of(std::string tenant, std::string revision = "1") {
    return {.tenant = std::move(tenant),
            .model = "llama",
            .revision = std::move(revision),
            .dtype = "bf16",
            .block_tokens = 16};
}

auto open(Controller& controller, const NamespaceSpec& spec, const Credential& credential = {}) {
    return controller.open_namespace(spec, spec.fingerprint(), credential);
}

Credential with_key(std::string key) { return {.uid = std::nullopt, .tenant_key = std::move(key)}; }
Credential with_uid(std::uint32_t uid) { return {.uid = uid, .tenant_key = ""}; }

struct World {
    MemoryStore store;
    SeededEntropy entropy{1};
    Controller controller = Controller::open(store, entropy).value();
};

}  // namespace

TEST_CASE("a namespace is made once: later openings give the same ids and secret") {
    World world;
    const auto first = open(world.controller, spec_of("default"));
    REQUIRE(first);
    CHECK(first->namespace_id == 1);
    CHECK(first->domain_id == 1);
    CHECK(first->secret != model::Secret{});
    CHECK(open(world.controller, spec_of("default")).value() == *first);

    const auto second = open(world.controller, spec_of("default", "2"));
    REQUIRE(second);
    CHECK(second->namespace_id == 2);
    CHECK(second->domain_id == 1);  // one domain a tenant
    CHECK(second->secret != first->secret);
    const auto elsewhere = open(world.controller, spec_of("acme"), with_key("k"));
    REQUIRE(elsewhere);
    CHECK(elsewhere->domain_id == 2);
}

TEST_CASE("the restarted controller is the same node with the same namespaces") {
    World world;
    const auto before = open(world.controller, spec_of("acme"), with_key("k"));
    auto again = Controller::open(world.store, world.entropy);
    REQUIRE(again);
    CHECK(again->node_id() == world.controller.node_id());
    CHECK(again->node_id() != 0);
    REQUIRE(before);
    CHECK(open(*again, spec_of("acme"), with_key("k")).value() == *before);
}

TEST_CASE("a fingerprint that is not the specification's is refused with both in hex") {
    World world;
    const auto spec = spec_of("default");
    auto wrong = spec.fingerprint();
    wrong.bytes[0] ^= std::byte{1};
    const auto refused = world.controller.open_namespace(spec, wrong, {});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::Mismatch);
    CHECK(refused.error().detail.find(to_hex(wrong.bytes)) != std::string::npos);
    CHECK(refused.error().detail.find(to_hex(spec.fingerprint().bytes)) != std::string::npos);
    CHECK(refused.error().detail.find(spec.describe()) != std::string::npos);
}

TEST_CASE("another specification under the same name is refused with what differs") {
    World world;
    REQUIRE(open(world.controller, spec_of("default")));
    auto theirs = spec_of("default");
    theirs.dtype = "f32";
    const auto refused = open(world.controller, theirs);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::Mismatch);
    CHECK(refused.error().detail.find("dtype: ours \"bf16\", theirs \"f32\"") != std::string::npos);
    CHECK(refused.error().detail.find(to_hex(theirs.fingerprint().bytes)) != std::string::npos);
    CHECK(refused.error().detail.find(to_hex(spec_of("default").fingerprint().bytes)) != std::string::npos);
}

TEST_CASE("a wrong specification is refused before anything else looks at it") {
    World world;
    auto spec = spec_of("default");
    spec.model = "";
    CHECK(open(world.controller, spec).error().code == Errc::Invalid);
}

// It shows the cluster's key instead of a tenant's, and finds what others have opened.
TEST_CASE("a member opens what exists, by the cluster's key and no other") {
    MemoryStore store;
    SeededEntropy entropy{1};
    const SystemClock clock;
    auto office = meta::open_head_office(store, clock, entropy,
                                         {.self = {.incarnation = 1, .name = "head", .address = "head:1"},
                                          .cluster_key = "cluster",
                                          .admin_uid = {},
                                          .times = {}});
    REQUIRE(office);
    const auto ask = [&](const NamespaceSpec& spec, const Credential& credential) {
        Result<model::NamespaceRecord> answer = fail(Errc::Deadline, "no answer");
        (*office)->open_namespace(spec, spec.fingerprint(), credential,
                                  [&](Result<model::NamespaceRecord> record) { answer = std::move(record); });
        return answer;
    };
    const Credential member{.uid = {}, .tenant_key = {}, .cluster_key = "cluster"};
    CHECK(ask(spec_of("acme"), member).error().code == Errc::Invalid);  // it makes nothing
    const auto made = ask(spec_of("acme"), with_key("k"));
    REQUIRE(made);
    CHECK(ask(spec_of("acme"), member).value() == *made);
    const Credential stranger{.uid = {}, .tenant_key = "k", .cluster_key = "another"};
    CHECK(ask(spec_of("acme"), stranger).error().code == Errc::Denied);
    auto other = spec_of("acme");
    other.dtype = "f32";
    CHECK(ask(other, member).error().code == Errc::Mismatch);
}

TEST_CASE("names that look alike when written in a row are different namespaces") {
    World world;
    auto one = spec_of("default", "c");
    one.model = "a/b";
    auto other = spec_of("default", "b/c");
    other.model = "a";
    CHECK(open(world.controller, one)->namespace_id != open(world.controller, other)->namespace_id);
}

// Who opens a tenant first owns it; the sentence says how to prove that, and nothing about the owner.
TEST_CASE("a tenant opens to the key it was bound to, and to nothing else") {
    World world;
    REQUIRE(open(world.controller, spec_of("acme"), with_key("right")));
    CHECK(open(world.controller, spec_of("acme"), with_key("right")));
    CHECK(open(world.controller, spec_of("acme", "2"), with_key("right")));
    const Credential both{.uid = 1000, .tenant_key = "right"};
    CHECK(open(world.controller, spec_of("acme"), both));
    for (const auto& wrong : {with_key("wrong"), with_key(""), with_uid(1000), with_uid(0), Credential{}}) {
        const auto refused = open(world.controller, spec_of("acme"), wrong);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::Denied);
        CHECK(refused.error().detail.find("?key=") != std::string::npos);
        CHECK(refused.error().detail.find("right") == std::string::npos);
    }
    // Not even the store knows the key.
    for (const auto& [key, value] : world.store.entries()) CHECK(value.find("right") == std::string::npos);
}

TEST_CASE("a tenant that was opened without a key belongs to the uid that the kernel told") {
    World world;
    REQUIRE(open(world.controller, spec_of("acme"), with_uid(1000)));
    CHECK(open(world.controller, spec_of("acme"), with_uid(1000)));
    const Credential key_too{.uid = 1000, .tenant_key = "any"};
    CHECK(open(world.controller, spec_of("acme"), key_too));
    for (const auto& wrong : {with_uid(1001), with_key("any"), Credential{}}) {
        const auto refused = open(world.controller, spec_of("acme"), wrong);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::Denied);
        CHECK(refused.error().detail.find("1000") == std::string::npos);
    }
}

TEST_CASE("a tenant needs a proof at its first opening, the default one never") {
    World world;
    const auto refused = open(world.controller, spec_of("acme"));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::Denied);
    CHECK(refused.error().detail.find("shm") != std::string::npos);
    REQUIRE(open(world.controller, spec_of("acme"), with_uid(5)));  // the refusal bound nothing

    CHECK(open(world.controller, spec_of("default")));
    CHECK(open(world.controller, spec_of("default"), with_key("a")));
    CHECK(open(world.controller, spec_of("default"), with_uid(7)));
}

// Else a stranger could ask which models a tenant serves, and how.
TEST_CASE("who is denied a tenant learns nothing about its namespaces") {
    World world;
    REQUIRE(open(world.controller, spec_of("acme"), with_key("right")));
    auto theirs = spec_of("acme");
    theirs.dtype = "f32";
    const auto exists = open(world.controller, theirs, with_key("wrong"));
    const auto absent = open(world.controller, spec_of("acme", "9"), with_key("wrong"));
    REQUIRE_FALSE(exists);
    REQUIRE_FALSE(absent);
    CHECK(exists.error().detail == absent.error().detail);
}

TEST_CASE("namespaces and tenants have limits, and what exists still opens") {
    MemoryStore store;
    SeededEntropy entropy(1);
    auto controller = Controller::open(store, entropy, {.namespaces_max = 3, .tenants_max = 2});
    REQUIRE(controller);
    REQUIRE(open(*controller, spec_of("default")));
    REQUIRE(open(*controller, spec_of("acme"), with_key("k")));
    CHECK(open(*controller, spec_of("third"), with_key("k")).error().code == Errc::NoCapacity);
    REQUIRE(open(*controller, spec_of("acme", "2"), with_key("k")));
    CHECK(open(*controller, spec_of("acme", "3"), with_key("k")).error().code == Errc::NoCapacity);
    CHECK(open(*controller, spec_of("acme"), with_key("k")));
}

TEST_CASE("namespaces are listed page by page, each once") {
    World world;
    for (int revision = 0; revision < 25; ++revision) {
        REQUIRE(open(world.controller, spec_of("default", std::to_string(revision))));
    }
    std::set<std::uint32_t> seen;
    const NamespaceSpec* after = nullptr;
    NamespaceSpec last;
    while (true) {
        const auto page = world.controller.namespaces(after, 10);
        REQUIRE(page);
        for (const auto& record : *page) CHECK(seen.insert(record.namespace_id).second);
        if (page->size() < 10) break;
        last = page->back().spec;
        after = &last;
    }
    CHECK(seen.size() == 25);
}

TEST_CASE("one opening is one write") {
    World world;
    const auto before = world.store.writes();
    REQUIRE(open(world.controller, spec_of("acme"), with_key("k")));
    CHECK(world.store.writes() == before + 1);
    REQUIRE(open(world.controller, spec_of("acme"), with_key("k")));
    CHECK(world.store.writes() == before + 1);
}

// The store stops at each write in turn, with that write lost or landed. After a restart everything that
// was promised is there as it was promised, ids are unique, and what failed can be done again.
TEST_CASE("a crash at any write loses nothing that was told, and gives no id twice") {
    const std::vector<std::pair<NamespaceSpec, Credential>> openings{
        {spec_of("default"), {}},
        {spec_of("acme"), with_key("k")},
        {spec_of("acme", "2"), with_key("k")},
        {spec_of("other"), with_uid(1000)},
        {spec_of("default", "2"), {}},
    };
    for (const auto failure : {MemoryStore::Failure::Lost, MemoryStore::Failure::Landed}) {
        for (std::uint64_t stop = 0; stop <= openings.size() + 1; ++stop) {
            CAPTURE(stop);
            CAPTURE(static_cast<int>(failure));
            MemoryStore store;
            SeededEntropy entropy(stop);
            store.fail_after(stop, failure);
            std::vector<model::NamespaceRecord> told;
            std::uint64_t node_id = 0;
            if (auto controller = Controller::open(store, entropy)) {
                node_id = controller->node_id();
                for (const auto& [spec, credential] : openings) {
                    if (auto record = open(*controller, spec, credential)) told.push_back(*record);
                }
            }
            store.restart();
            auto controller = Controller::open(store, entropy);
            REQUIRE(controller);
            if (node_id != 0) CHECK(controller->node_id() == node_id);
            std::set<std::uint32_t> ids;
            std::set<std::uint32_t> domains;
            for (std::size_t index = 0; index < openings.size(); ++index) {
                const auto record = open(*controller, openings[index].first, openings[index].second);
                REQUIRE(record);
                if (index < told.size()) CHECK(*record == told[index]);
                CHECK(ids.insert(record->namespace_id).second);
                domains.insert(record->domain_id);
            }
            CHECK(*ids.rbegin() == openings.size());
            CHECK(domains.size() == 3);
        }
    }
}

TEST_CASE("a store that fails is an answer, not a crash") {
    World world;
    world.store.fail_after(0, MemoryStore::Failure::Lost);
    CHECK(open(world.controller, spec_of("default")).error().code == Errc::NoCapacity);
    CHECK_FALSE(meta::Membership::open(world.store, {}, 1));
}

TEST_CASE("bytes in the store that no version wrote are Corrupt, another version's are Mismatch") {
    World world;
    REQUIRE(open(world.controller, spec_of("default")));
    const auto entries = world.store.entries();
    for (const auto& [key, value] : entries) {
        CAPTURE(key);
        const meta::Entry cut[]{{.key = key, .value = value.substr(0, value.size() - 1)}};
        REQUIRE(world.store.apply(cut));
        const auto reopened = Controller::open(world.store, world.entropy);
        const auto members = meta::Membership::open(world.store, {}, 1);
        const auto code = !reopened           ? reopened.error().code
                          : !members          ? members.error().code
                          : key == "counters" ? open(world.controller, spec_of("default", "2")).error().code
                                              : open(world.controller, spec_of("default")).error().code;
        CHECK(code == Errc::Corrupt);
        const meta::Entry whole[]{{.key = key, .value = value}};
        REQUIRE(world.store.apply(whole));
    }
    const meta::Entry newer[]{{"node", "\x02whatever"}};
    REQUIRE(world.store.apply(newer));
    CHECK(Controller::open(world.store, world.entropy).error().code == Errc::Mismatch);
}

// ---- Both stores keep the same promises. ----

namespace {

void check_store(meta::Store& store) {
    CHECK(store.get("a/1").value() == std::nullopt);
    const meta::Entry first[]{{"a/1", "one"}, {"a/2", std::string("two\0x", 5)}, {"b", "three"}};
    REQUIRE(store.apply(first));
    CHECK(store.get("a/2").value() == std::string("two\0x", 5));
    const meta::Entry second[]{{"a/1", "uno"}, {"a/3", ""}};
    REQUIRE(store.apply(second));
    CHECK(store.get("a/1").value() == "uno");
    CHECK(store.get("a/3").value() == "");
    const auto all = store.scan("a/", "", 10).value();
    REQUIRE(all.size() == 3);
    CHECK(all[0] == meta::Entry{"a/1", "uno"});
    const auto page = store.scan("a/", "a/1", 1).value();
    REQUIRE(page.size() == 1);
    CHECK(page[0].key == "a/2");
    CHECK(store.scan("a/", "a/3", 10)->empty());
    CHECK(store.scan("c", "", 10)->empty());
}

}  // namespace

TEST_CASE("the store in memory keeps what was written, in order") {
    MemoryStore store;
    check_store(store);
}

TEST_CASE("the store on disk keeps what was written, also when it is opened again") {
    const testing::TempFolder temp;
    {
        const auto store = meta::open_rocksdb(temp / "below/meta");
        REQUIRE(store);
        check_store(**store);
    }
    SeededEntropy entropy(1);
    model::NamespaceRecord before;
    {
        const auto store = meta::open_rocksdb(temp / "below/meta").value();
        CHECK(store->get("a/1").value() == "uno");
        auto controller = Controller::open(*store, entropy).value();
        before = open(controller, spec_of("acme"), with_key("k")).value();
    }
    const auto store = meta::open_rocksdb(temp / "below/meta").value();
    auto controller = Controller::open(*store, entropy).value();
    CHECK(open(controller, spec_of("acme"), with_key("k")).value() == before);
}

TEST_CASE("a folder that is open already, unfit or damaged is refused with a sentence") {
    const testing::TempFolder temp;
    {
        const auto store = meta::open_rocksdb(temp / "meta");
        REQUIRE(store);
        const auto second = meta::open_rocksdb(temp / "meta");
        REQUIRE_FALSE(second);
        CHECK(second.error().code == Errc::Again);
        CHECK(second.error().detail.find("another process") != std::string::npos);
    }
    std::ofstream(temp / "file") << "no folder";
    CHECK(meta::open_rocksdb(temp / "file").error().code == Errc::Denied);
    std::filesystem::create_directory(temp / "shared");
    std::filesystem::permissions(temp / "shared", std::filesystem::perms(0755));
    CHECK(meta::open_rocksdb(temp / "shared").error().code == Errc::Denied);

    for (const auto& file : std::filesystem::directory_iterator(temp / "meta")) {
        if (file.path().filename().string().starts_with("MANIFEST")) {
            std::ofstream(file.path(), std::ios::trunc) << "rubbish that is no manifest";
        }
    }
    const auto damaged = meta::open_rocksdb(temp / "meta");
    REQUIRE_FALSE(damaged);
    CHECK(damaged.error().code == Errc::Corrupt);
    CHECK(damaged.error().detail.find("move the folder away") != std::string::npos);
}
