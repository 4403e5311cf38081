// What both stores keep: in RocksDB, which one node has and the others ask, and in etcd, which all share.
#include <functional>
#include <thread>

#include <cmpool/meta/controller.h>
#include <cmpool/meta/memory_store.h>
#include <cmpool/meta/office.h>
#include <cmpool/testing/etcd.h>
#include <cmpool/testing/temp_folder.h>

#include <poll.h>

using namespace cmpool;
using namespace std::chrono_literals;
using model::MemberState;
using model::NamespaceSpec;
using testing::Etcd;
using testing::TempFolder;

namespace {

constexpr auto kLook = 20ms;
constexpr meta::LeaseTimes kTimes{.lease = 3000ms, .grace = 500ms};

meta::OfficeConfig config_of(const std::string& name, std::uint64_t incarnation) {
    return {.self = {.incarnation = incarnation, .name = name, .address = name + ":1", .host = name},
            .cluster_key = {},
            .admin_uid = 0,
            .times = kTimes};
}

NamespaceSpec spec_of(std::string revision) {
    return {.model = "llama", .revision = std::move(revision), .dtype = "bf16", .block_tokens = 16};
}

/// Some nodes that agree by one store. What `go_on` does is what their threads would do.
class Agreement {
public:
    virtual ~Agreement() = default;
    virtual void join(const std::string& name) = 0;
    /// All at the same time.
    virtual void join_at_once(const std::vector<std::string>& names) = 0;
    virtual void leave(const std::string& name) = 0;
    virtual void fall_silent(const std::string& name) = 0;
    virtual void go_on() = 0;
    /// The keeper of the store ends as by a power cut, and begins again.
    virtual void restart_store() = 0;
    /// Those that can be asked.
    virtual std::vector<meta::Office*> offices() = 0;

    bool comes_true(const std::function<bool()>& condition, std::chrono::milliseconds limit = 15s) {
        const auto until = std::chrono::steady_clock::now() + limit;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > until) return false;
            go_on();
            wait();
        }
        return true;
    }
    /// Whether each of them sees that member so; nothing: it is not there.
    bool all_see(const std::string& name, std::optional<MemberState> state) {
        const auto sees = [&](const meta::Office* office) {
            for (const auto& member : office->view()->members) {
                if (member.name == name) return state == member.state;
            }
            return !state;
        };
        const auto all = offices();
        return std::all_of(all.begin(), all.end(), sees);
    }
    [[nodiscard]] std::uint64_t epoch() { return offices().front()->view()->epoch; }
    Result<model::NamespaceRecord> open(meta::Office& office, const NamespaceSpec& spec) {
        Result<model::NamespaceRecord> seen = fail(Errc::Deadline, "no answer");
        office.open_namespace(spec, spec.fingerprint(), {}, [&](auto record) { seen = std::move(record); });
        return seen;
    }
    Result<wire::Body> ask(meta::Office& office, wire::Body question) {
        Result<wire::Body> seen = fail(Errc::Deadline, "no answer");
        office.ask(std::move(question), 0, [&](auto answer) { seen = std::move(answer); });
        return seen;
    }

private:
    /// Until something has come for one of them or one of them wants to go on, at most kLook: whoever asks
    /// may ask about something else.
    void wait() {
        std::vector<pollfd> bells;
        Instant next = clock_.now() + kLook;
        for (const auto* office : offices()) {
            next = std::min(next, office->next_deadline());
            if (office->event_fd() >= 0) bells.push_back({office->event_fd(), POLLIN, 0});
        }
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - clock_.now());
        ::poll(bells.data(), bells.size(), static_cast<int>(std::max(left.count(), std::int64_t{0})));
    }

protected:
    SystemClock clock_;
    SystemEntropy entropy_;
};

class InRocksDb final : public Agreement {
public:
    InRocksDb() { open_head(); }
    void join(const std::string& name) override {
        auto member = config_of(name, 1).self;
        member.node_id = std::hash<std::string>{}(name) | 1;
        REQUIRE(ask(*head_, wire::Join{member, "", 0}));
        members_[name] = member;
    }
    void join_at_once(const std::vector<std::string>& names) override {
        for (const auto& name : names) join(name);
    }
    void leave(const std::string& name) override {
        REQUIRE(ask(*head_, wire::Leave{members_.at(name).node_id, 1}));
        members_.erase(name);
    }
    void fall_silent(const std::string& name) override { members_.erase(name); }
    void go_on() override {
        head_->progress();
        for (const auto& [name, member] : members_)
            (void)ask(*head_, wire::Renew{member.node_id, member.incarnation});
    }
    void restart_store() override {
        head_.reset();
        store_.reset();
        open_head();
    }
    std::vector<meta::Office*> offices() override { return {head_.get()}; }

private:
    void open_head() {
        store_ = meta::open_rocksdb(folder_ / "meta").value();
        head_ = meta::open_head_office(*store_, clock_, entropy_, config_of("head", 1)).value();
    }
    TempFolder folder_;
    std::unique_ptr<meta::Store> store_;
    std::unique_ptr<meta::Office> head_;
    std::map<std::string, model::Member> members_;
};

class InEtcd final : public Agreement {
public:
    explicit InEtcd(std::unique_ptr<Etcd> etcd) : etcd_(std::move(etcd)) { join("head"); }
    void join(const std::string& name) override {
        open(name);
        REQUIRE(comes_true([&] { return all_see(name, MemberState::Serving); }));
    }
    void join_at_once(const std::vector<std::string>& names) override {
        std::vector<std::thread> threads;
        for (const auto& name : names) open(name);
        for (const auto& name : names)
            threads.emplace_back([office = peers_.at(name).office.get()] { office->progress(); });
        for (auto& thread : threads) thread.join();
        for (const auto& name : names)
            REQUIRE(comes_true([&] { return all_see(name, MemberState::Serving); }));
    }
    void leave(const std::string& name) override {
        peers_.at(name).office->leave();
        peers_.erase(name);
    }
    void fall_silent(const std::string& name) override { peers_.erase(name); }
    void go_on() override {
        for (auto& [name, peer] : peers_) peer.office->progress();
    }
    void restart_store() override {
        etcd_->kill(0);
        etcd_->start(0);
        (void)etcd_->leader();
    }
    std::vector<meta::Office*> offices() override {
        std::vector<meta::Office*> all;
        for (auto& [name, peer] : peers_) all.push_back(peer.office.get());
        return all;
    }

private:
    struct Peer {
        meta::MemoryStore own;
        std::unique_ptr<meta::SharedStore> shared;
        std::unique_ptr<meta::Office> office;
    };
    void open(const std::string& name) {
        Peer& peer = peers_[name];
        peer.shared = meta::open_etcd(meta::parse_etcd(etcd_->uri()).value());
        peer.office =
            meta::open_peer_office(peer.own, *peer.shared, clock_, entropy_, config_of(name, 1)).value();
    }
    std::unique_ptr<Etcd> etcd_;
    std::map<std::string, Peer> peers_;
};

void with_each_store(const std::function<void(Agreement&)>& body) {
    SUBCASE("in RocksDB") {
        InRocksDb agreement;
        body(agreement);
    }
    SUBCASE("in etcd") {
        auto etcd = Etcd::start_all();
        if (!etcd) return;
        InEtcd agreement(std::move(etcd));
        body(agreement);
    }
}

}  // namespace

TEST_CASE("members join, leave and fall silent; each change is one epoch, and all hear of it") {
    with_each_store([](Agreement& nodes) {
        const auto alone = nodes.epoch();
        nodes.join("a");
        nodes.join("b");
        CHECK(nodes.epoch() == alone + 2);
        nodes.leave("a");
        CHECK(nodes.comes_true([&] { return nodes.all_see("a", std::nullopt); }));
        CHECK(nodes.epoch() == alone + 3);

        nodes.fall_silent("b");
        const auto begun = std::chrono::steady_clock::now();
        CHECK(nodes.comes_true([&] { return nodes.all_see("b", MemberState::Down); }));
        const auto took = std::chrono::steady_clock::now() - begun;
        CHECK(took <= kTimes.lease + 1s);
        CHECK(took >= kTimes.lease / 2);
        CHECK(nodes.epoch() == alone + 4);
        CHECK(nodes.all_see("head", MemberState::Serving));
    });
}

TEST_CASE("of those that join at once nobody is lost") {
    with_each_store([](Agreement& nodes) {
        const auto alone = nodes.epoch();
        nodes.join_at_once({"a", "b", "c", "d"});
        for (const auto* name : {"head", "a", "b", "c", "d"})
            CHECK(nodes.all_see(name, MemberState::Serving));
        CHECK(nodes.epoch() == alone + 4);
    });
}

TEST_CASE("namespaces are made once, changed and removed, and who has heard of them hears of that") {
    with_each_store([](Agreement& nodes) {
        nodes.join("a");
        auto& asked = *nodes.offices().back();
        auto& told = *nodes.offices().front();
        const auto made = nodes.open(asked, spec_of("1"));
        REQUIRE(made);
        CHECK(nodes.open(told, spec_of("1")).value() == *made);
        CHECK(nodes.open(told, spec_of("2"))->namespace_id == made->namespace_id + 1);
        (void)told.take_changes();

        std::vector<wire::NamespaceInfo> heard;
        const auto hears = [&](auto is) {
            return nodes.comes_true([&] {
                for (auto& info : told.take_changes()) heard.push_back(std::move(info));
                return std::any_of(heard.begin(), heard.end(), is);
            });
        };
        wire::ChangeNamespace change{.tenant = "default", .model = "llama", .revision = "1", .replicas = 2};
        change.quota.bytes = 1 << 20;
        REQUIRE(nodes.ask(asked, change));
        CHECK(hears([&](const auto& info) {
            return info.namespace_id == made->namespace_id && info.replicas == 2 &&
                   info.quota.bytes == 1 << 20;
        }));
        CHECK(nodes.open(told, spec_of("1"))->replicas == 2);

        heard.clear();
        REQUIRE(nodes.ask(
            asked,
            wire::ChangeNamespace{.tenant = "default", .model = "llama", .revision = "1", .remove = true}));
        CHECK(hears([&](const auto& info) {
            return info.namespace_id == made->namespace_id && info.quota.bytes == 0;
        }));
        CHECK(nodes.open(told, spec_of("1"))->namespace_id == made->namespace_id + 2);
    });
}

TEST_CASE(
    "after a restart of the store nothing is forgotten, nobody is dropped, and who is silent still is") {
    with_each_store([](Agreement& nodes) {
        nodes.join("a");
        nodes.join("b");
        const auto made = nodes.open(*nodes.offices().front(), spec_of("1"));
        REQUIRE(made);
        const auto before = nodes.epoch();

        nodes.restart_store();
        nodes.fall_silent("b");
        const auto begun = std::chrono::steady_clock::now();
        CHECK(nodes.comes_true([&] { return nodes.all_see("b", MemberState::Down); }));
        // Nobody judges before everybody has had a whole lease.
        CHECK(std::chrono::steady_clock::now() - begun >= kTimes.lease / 2);
        CHECK(nodes.all_see("a", MemberState::Serving));
        CHECK(nodes.all_see("head", MemberState::Serving));
        CHECK(nodes.epoch() > before);
        Result<model::NamespaceRecord> again = fail(Errc::Deadline, "not yet");
        CHECK(nodes.comes_true([&] {
            again = nodes.open(*nodes.offices().front(), spec_of("1"));
            return again.has_value();
        }));
        CHECK(*again == *made);
    });
}

TEST_CASE("a write happens as a whole, and only where what it was computed from still holds") {
    const auto holds = [](meta::Store& store) {
        const meta::Entry first[]{{.key = "a", .value = "one"},
                                  {.key = "b", .value = std::string("two\0", 4)}};
        const meta::Guard none[]{{"a", 0}};
        const auto written = store.write(first, none);
        REQUIRE(written);
        const auto read = store.read("a").value();
        REQUIRE(read);
        CHECK(read->value == "one");
        CHECK(read->revision == *written);
        CHECK(store.get("b").value() == std::string("two\0", 4));
        const meta::Entry second[]{{.key = "a", .value = "uno"}, {.key = "b", .value = "", .erase = true}};
        CHECK(store.write(second, none).error().code == Errc::Again);
        CHECK(store.get("b").value() == std::string("two\0", 4));
        const meta::Guard same[]{{"a", read->revision}, {"c", 0}};
        const auto over = store.write(second, same);
        REQUIRE(over);
        CHECK(*over > *written);
        CHECK(store.get("b").value() == std::nullopt);
        // What was read before the change guards nothing any more.
        CHECK(store.write(first, same).error().code == Errc::Again);
        REQUIRE(store.apply(first));
        const auto page = store.scan("", "a", 10).value();
        REQUIRE(page.size() == 1);
        CHECK(page[0].key == "b");
    };
    SUBCASE("in memory") {
        meta::MemoryStore store;
        holds(store);
    }
    SUBCASE("in RocksDB") {
        const TempFolder folder;
        holds(*meta::open_rocksdb(folder / "meta").value());
    }
    SUBCASE("in etcd") {
        const auto etcd = Etcd::start_all();
        if (etcd) holds(*meta::open_etcd(meta::parse_etcd(etcd->uri()).value()));
    }
}

TEST_CASE("an address of etcd says where and under which prefix, or what is wrong with it") {
    const auto three = meta::parse_etcd("etcd://a:1,b:2,[::1]:3/some/where/").value();
    CHECK(three.endpoints == std::vector<std::string>{"a:1", "b:2", "[::1]:3"});
    CHECK(three.prefix == "some/where/");
    CHECK(meta::parse_etcd("etcd://a:1")->prefix == "cmpool/");
    for (const auto* wrong :
         {"etcd://", "etcd://a", "etcd://a:", "etcd://:1", "etcd://a:1,", "etcd://a:x", "http://a:1"})
        CHECK(meta::parse_etcd(wrong).error().code == Errc::Invalid);
}
