// Two tenants of one cmpoold on one host, each under a user of its own. Whatever the one tries, it sees
// nothing of the other: not by the API, not with descriptors that it has seen, not through the kernel.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include <cmpool/base/units.h>
#include <cmpool/testing/child.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>
#include <cmpool/transport/fabric.h>
#include <cmpool/wire/messages.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

using namespace cmpool;
using namespace std::chrono_literals;
using client::Outcome;
using testing::Child;
using testing::Daemon;
using testing::Talk;

namespace {

constexpr uid_t kUidA = 1001;
constexpr uid_t kUidB = 1002;
constexpr std::size_t kBlockBytes = 60'000;
const std::string kPatient = "?deadline_ms=20000";

bool is_root() {
    if (::geteuid() == 0) return true;
    MESSAGE("skipped: only root can be several users");
    return false;
}

client::NamespaceSpec namespace_of(const std::string& tenant) {
    auto spec = testing::plain_namespace();
    spec.tenant = tenant;
    return spec;
}

/// Bytes that nobody but this tenant stores.
std::vector<std::byte> marked(const std::string& tenant) {
    std::vector<std::byte> block(kBlockBytes);
    const std::string mark = fmt::format("<what tenant {:>4} typed, and nobody else>", tenant);
    for (std::size_t at = 0; at < block.size(); ++at)
        block[at] = static_cast<std::byte>(mark[at % mark.size()]);
    return block;
}

std::string reason(int error) {
    for (const auto& [code, name] : {std::pair{EACCES, "EACCES"},
                                     {EPERM, "EPERM"},
                                     {EINVAL, "EINVAL"},
                                     {EBADF, "EBADF"},
                                     {ENOENT, "ENOENT"},
                                     {0, "done"}}) {
        if (error == code) return name;
    }
    return std::strerror(error);
}

/// "done", or why the kernel said no.
template <class Call>
std::string attempt(Call call) {
    errno = 0;
    return call() ? "done" : reason(errno);
}
std::string attempt_open(const std::string& path, int flags) {
    return attempt([&] { return bool(UniqueFd(::open(path.c_str(), flags | O_CLOEXEC))); });
}

/// The pool's segments in this process: where they are mapped, and the descriptors of their files.
struct Mine {
    std::vector<Bytes> mapped;
    std::vector<int> files;

    static Mine look() {
        Mine mine;
        std::ifstream maps("/proc/self/maps");
        for (std::string line; std::getline(maps, line);) {
            if (line.find("/segment-") == std::string::npos) continue;
            std::uintptr_t begin = 0;
            std::uintptr_t end = 0;
            char dash = 0;
            std::istringstream(line) >> std::hex >> begin >> dash >> end;
            mine.mapped.push_back({reinterpret_cast<const std::byte*>(begin), end - begin});
        }
        for (int fd = 0; fd < 1024; ++fd) {
            std::array<char, 256> path{};
            const auto link = fmt::format("/proc/self/fd/{}", fd);
            if (::readlink(link.c_str(), path.data(), path.size() - 1) <= 0) continue;
            if (std::string_view(path.data()).find("/segment-") != std::string_view::npos)
                mine.files.push_back(fd);
        }
        return mine;
    }
    [[nodiscard]] std::uint64_t bytes() const {
        std::uint64_t sum = 0;
        for (const auto each : mapped) sum += each.size();
        return sum;
    }
    /// How often this tenant's mark stands in what is mapped here.
    [[nodiscard]] std::size_t marks_of(const std::string& tenant) const {
        const auto block = marked(tenant);
        const std::string_view mark = as_text(Bytes(block).first(40));
        std::size_t found = 0;
        for (const auto each : mapped) {
            const auto text = as_text(each);
            for (auto at = text.find(mark); at != std::string_view::npos;
                 at = text.find(mark, at + mark.size()))
                ++found;
        }
        return found;
    }
};

/// What the kernel lets a client do with the read-only segments that it was given itself.
std::string own_descriptors() {
    const Mine mine = Mine::look();
    if (mine.files.empty() || mine.mapped.empty()) return "no segment";
    std::vector<std::string> all;
    for (const int fd : mine.files) {
        const auto link = fmt::format("/proc/self/fd/{}", fd);
        all.push_back("reopen " + attempt_open(link, O_RDWR));
        all.push_back("map " + attempt([&] {
                          return ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) !=
                                 MAP_FAILED;
                      }));
        all.push_back("truncate " + attempt([&] { return ::ftruncate(fd, 0) == 0; }));
        all.push_back("write " + attempt([&] { return ::pwrite(fd, "x", 1, 0) == 1; }));
        all.push_back("punch " + attempt([&] {
                          return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
                      }));
        all.push_back("chmod " + attempt([&] { return ::fchmod(fd, 0666) == 0; }));
    }
    for (const auto each : mine.mapped) {
        auto* start = const_cast<std::byte*>(each.data());
        all.push_back("protect " +
                      attempt([&] { return ::mprotect(start, 4096, PROT_READ | PROT_WRITE) == 0; }));
    }
    std::ranges::sort(all);
    const auto repeated = std::ranges::unique(all);
    all.erase(repeated.begin(), repeated.end());
    return fmt::format("{}", fmt::join(all, ", "));
}

/// A lane by hand, for what no client library would say.
class RawLane final : public transport::Receiver {
public:
    RawLane(transport::Fabric& fabric, const std::string& address) : lane_(fabric.connect(address).value()) {
        (void)ask(wire::Hello{.client = "stranger"});
    }
    ~RawLane() override { (void)lane_->quiesce(1s); }

    wire::Body ask(wire::Body body) {
        wire::Encoder encoder;
        transport::Op send{.signal = false};
        send.head = encoder.encode({++request_id_, 1, std::move(body)});
        (void)lane_->post({&send, 1});
        answer_.clear();
        until([this] { return !answer_.empty(); });
        return decoder_.decode(answer_).value().body;
    }
    /// "done", or the code of the refusal.
    std::string import(const wire::Grant& grant) {
        const auto started = lane_->import({grant.descriptor}, {grant.token}, ++cookie_);
        if (!started) return std::string(to_string(started.error().code));
        std::optional<transport::Completion> done;
        until([&] {
            transport::Completion completion;
            if (lane_->poll({&completion, 1}) == 1 && completion.cookie == cookie_) done = completion;
            return done.has_value();
        });
        if (!done->error) return "done";
        return std::string(to_string(*done->error));
    }
    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane&, Bytes head, std::uint64_t) override {
        answer_.assign(head.begin(), head.end());
    }

private:
    template <class Question>
    void until(Question question) {
        while (!question()) {
            CMPOOL_ASSERT(lane_->receive(*this));
            if (question()) return;
            pollfd ready{.fd = lane_->event_fd(), .events = POLLIN, .revents = 0};
            if (lane_->wants_write()) ready.events |= POLLOUT;
            CMPOOL_ASSERT(::poll(&ready, 1, 20'000) > 0);
        }
    }
    std::unique_ptr<transport::Lane> lane_;
    std::vector<std::byte> answer_;
    wire::Decoder decoder_;
    std::uint64_t request_id_ = 0;
    std::uint64_t cookie_ = 0;
};

std::string code_of(const wire::Body& answer) {
    const auto* failed = std::get_if<wire::Failed>(&answer);
    return failed != nullptr ? std::string(to_string(failed->code)) : std::string(wire::name_of(answer));
}

/// A tenant's process: does what it is asked, says what came of it.
class Tenant {
public:
    Tenant(const Daemon& daemon, std::string name) : daemon_(daemon), name_(std::move(name)) {}

    void serve(const Talk& talk) {
        while (const auto line = talk.hear(60s)) {
            std::istringstream words(*line);
            std::string verb;
            words >> verb;
            talk.say(answer(verb, words));
        }
    }

private:
    std::string answer(const std::string& verb, std::istream& words) {
        if (verb == "open") return open(words);
        if (verb == "fill") return fill(words);
        if (verb == "look") return look(words);
        if (verb == "keys") return fmt::format("{}", fmt::join(hex_keys(), " "));
        if (verb == "probe") return probe(words);
        if (verb == "impersonate") return impersonate(words);
        if (verb == "hold") return hold();
        if (verb == "held") return held();
        if (verb == "grants") return grants();
        if (verb == "forge") return forge(words);
        if (verb == "namespace") return other_namespace(words);
        if (verb == "descriptors") return own_descriptors();
        if (verb == "kernel") return kernel(words);
        return "what?";
    }

    /// open QUERY: as this tenant or as another.
    std::string open(std::istream& words) {
        std::string query;
        words >> query;
        auto opened = client::PoolClient::open(daemon_.uri(kPatient + query), namespace_of(name_));
        if (!opened) return fmt::format("{}: {}", to_string(opened.error().code), opened.error().detail);
        pool_ = std::move(*opened);
        keys_ = testing::chain_of(*pool_, 8);
        return "open " + pool_->status().transport;
    }
    /// fill CHAINS: stores marked blocks, and reads them back so that their segments are mapped.
    std::string fill(std::istream& words) {
        std::uint32_t chains = 0;
        words >> chains;
        const auto block = marked(name_);
        std::vector<std::byte> room(block.size());
        std::size_t stored = 0;
        for (std::uint32_t chain = 0; chain < chains; ++chain) {
            for (const auto& key : testing::chain_of(*pool_, 8, chain)) {
                if (testing::put_one(*pool_, key, block) == Outcome::Stored) ++stored;
                if (testing::get_one(*pool_, key, room).outcome == Outcome::Hit && room != block)
                    return "wrong bytes";
            }
        }
        return fmt::format("stored {}", stored);
    }
    /// look TENANT: whether its mark stands anywhere in this process's segments.
    std::string look(std::istream& words) {
        std::string tenant;
        words >> tenant;
        const Mine mine = Mine::look();
        if (mine.bytes() < 1 * MiB) return "nothing mapped";
        return mine.marks_of(tenant) == 0 ? "no mark" : "marks";
    }
    std::vector<std::string> hex_keys() {
        std::vector<std::string> keys;
        for (const auto& key : keys_) keys.push_back(to_hex(key.bytes));
        return keys;
    }
    static client::Digest unhex(const std::string& text) {
        client::Digest key;
        for (std::size_t at = 0; at < key.bytes.size(); ++at) {
            key.bytes[at] = static_cast<std::byte>(std::stoi(text.substr(2 * at, 2), nullptr, 16));
        }
        return key;
    }
    /// probe KEYS...: looks for another's digests in the own namespace.
    std::string probe(std::istream& words) {
        std::vector<client::Digest> keys;
        for (std::string text; words >> text;) keys.push_back(unhex(text));
        std::vector<std::byte> room(kBlockBytes);
        std::size_t got = 0;
        for (const auto& key : keys)
            got += testing::get_one(*pool_, key, room).outcome == Outcome::Hit ? 1 : 0;
        const auto matched = pool_->match(keys).blocks();
        const auto existing = pool_->exists(keys).count(Outcome::Hit);
        const auto removed = pool_->remove(keys).count(Outcome::Hit);
        return fmt::format("of {}: matched {} existing {} got {} removed {}", keys.size(), matched, existing,
                           got, removed);
    }
    /// impersonate KEYS...: stores own bytes under another's digests.
    std::string impersonate(std::istream& words) {
        std::size_t stored = 0;
        const auto block = marked(name_);
        for (std::string text; words >> text;) {
            stored += testing::put_one(*pool_, unhex(text), block) == Outcome::Stored ? 1 : 0;
        }
        return fmt::format("stored {}", stored);
    }
    std::string hold() {
        match_ = pool_->match(keys_);
        return fmt::format("holds {}", match_.blocks());
    }
    /// The held blocks, where they lie and by their keys.
    std::string held() {
        const auto block = marked(name_);
        std::size_t equal = 0;
        for (std::size_t index = 0; index < match_.blocks(); ++index) {
            const auto view = match_.view(index);
            equal += view && std::ranges::equal(*view, block) ? 1 : 0;
        }
        return fmt::format("equal {}", equal);
    }

    wire::NamespaceOpened open_by_hand(RawLane& lane) {
        const auto spec = namespace_of(name_);
        const auto opened = lane.ask(wire::OpenNamespace{spec, "", spec.fingerprint()});
        return std::get<wire::NamespaceOpened>(opened);
    }
    /// All that this tenant is given, without the tokens: one line of descriptors in hex.
    std::string grants() {
        RawLane lane(*shm_, daemon_.socket());
        const auto opened = open_by_hand(lane);
        const auto attached = std::get<wire::Attached>(lane.ask(wire::Attach{opened.namespace_id, 0}));
        std::vector<wire::Grant> all{attached.index, attached.control};
        all.insert(all.end(), attached.segments.begin(), attached.segments.end());
        std::vector<std::string> descriptors{std::to_string(opened.namespace_id)};
        for (const auto& grant : all) {
            if (lane.import(grant) != "done") return "own grant refused";
            descriptors.push_back(to_hex(grant.descriptor));
        }
        return fmt::format("{}", fmt::join(descriptors, " "));
    }
    /// forge DESCRIPTORS...: each with tokens that are not its own, then with changed segment ids.
    std::string forge(std::istream& words) {
        RawLane lane(*shm_, daemon_.socket());
        const auto opened = open_by_hand(lane);
        const auto attached = std::get<wire::Attached>(lane.ask(wire::Attach{opened.namespace_id, 0}));
        std::map<std::string, int> outcomes;
        for (std::string text; words >> text;) {
            wire::Grant grant;
            for (std::size_t at = 0; at < text.size(); at += 2) {
                grant.descriptor.push_back(
                    static_cast<std::byte>(std::stoi(text.substr(at, 2), nullptr, 16)));
            }
            for (const std::uint64_t token :
                 {std::uint64_t{0}, UINT64_MAX, attached.index.token, attached.control.token}) {
                grant.token = token;
                ++outcomes[lane.import(grant)];
            }
            for (std::size_t byte = 8; byte < 16; ++byte) {  // the segment's id
                auto guess = grant;
                guess.descriptor[byte] ^= std::byte{1};
                ++outcomes[lane.import(guess)];
            }
        }
        std::string said;
        for (const auto& [outcome, count] : outcomes) said += fmt::format("{} {}", outcome, count);
        return said;
    }
    /// namespace ID: another's, on a lane that has only opened its own.
    std::string other_namespace(std::istream& words) {
        std::uint32_t id = 0;
        words >> id;
        RawLane lane(*shm_, daemon_.socket());
        (void)open_by_hand(lane);
        const std::vector<std::uint32_t> rooms(keys_.size(), kBlockBytes);
        return fmt::format(
            "attach {} match {} exists {} get {} remove {} list {}", code_of(lane.ask(wire::Attach{id, 0})),
            code_of(lane.ask(wire::Match{id, keys_, 100})), code_of(lane.ask(wire::Exists{id, keys_})),
            code_of(lane.ask(wire::Get{id, keys_, rooms, false, {}})),
            code_of(lane.ask(wire::Remove{id, keys_})), code_of(lane.ask(wire::List{id, 0, 10})));
    }
    /// kernel PID...: what the kernel shows of the pool's folder, and of other processes.
    std::string kernel(std::istream& words) {
        std::vector<std::string> all;
        const std::string folder = daemon_.runtime_folder();
        all.push_back("list " + attempt([&] {
                          DIR* open_folder = ::opendir(folder.c_str());
                          if (open_folder != nullptr) ::closedir(open_folder);
                          return open_folder != nullptr;
                      }));
        for (std::string word; words >> word;) {
            if (word.starts_with("/")) {
                all.push_back("file " + attempt_open(word, O_RDONLY));
                continue;
            }
            const auto process = "/proc/" + word;
            all.push_back("fds " + attempt([&] {
                              DIR* fds = ::opendir((process + "/fd").c_str());
                              if (fds != nullptr) ::closedir(fds);
                              return fds != nullptr;
                          }));
            all.push_back("memory " + attempt_open(process + "/mem", O_RDONLY));
            all.push_back("maps " + attempt([&] {
                              DIR* files = ::opendir((process + "/map_files").c_str());
                              if (files != nullptr) ::closedir(files);
                              return files != nullptr;
                          }));
            std::byte stolen{};
            iovec into{&stolen, 1};
            iovec from{this, 1};  // both are forks of one process: the same addresses
            all.push_back("read " + attempt([&] {
                              return ::process_vm_readv(std::stoi(word), &into, 1, &from, 1, 0) == 1;
                          }));
        }
        std::ranges::sort(all);
        const auto repeated = std::ranges::unique(all);
        all.erase(repeated.begin(), repeated.end());
        return fmt::format("{}", fmt::join(all, ", "));
    }

    const Daemon& daemon_;
    std::string name_;
    std::unique_ptr<client::PoolClient> pool_;
    std::vector<client::Digest> keys_;
    client::Match match_;
    SystemEntropy entropy_;
    std::unique_ptr<transport::Fabric> shm_ = transport::open_shm({}, entropy_);
};

/// One cmpoold of root's, and two tenants that hold it open.
struct House {
    Daemon daemon{{"--capacity", "16M"}};
    Child a{[this](const Talk& talk) { Tenant(daemon, "a").serve(talk); }, kUidA};
    Child b{[this](const Talk& talk) { Tenant(daemon, "b").serve(talk); }, kUidB};

    House() {
        CHECK(a.ask("open &transport=shm") == "open shm");
        CHECK(b.ask("open &transport=shm") == "open shm");
    }
};

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE(
    "a tenant that another user opened is refused, on shm and over tcp, and the refusal says what proves "
    "it") {
    if (!is_root()) return;
    House house;
    for (const char* transport : {"shm", "tcp"}) {
        CAPTURE(transport);
        const auto refused = house.b.ask(fmt::format("open &tenant=a&transport={}", transport));
        CHECK(contains(refused, "Denied: tenant \"a\" needs a proof that it is yours"));
        CHECK(contains(refused, "?key="));
        CHECK(contains(refused, "as the user who opened it"));
        CHECK(
            contains(house.b.ask(fmt::format("open &tenant=a&key=guess&transport={}", transport)), "Denied"));
    }
    // A network does not tell who somebody is: by user, not even the right one gets in that way.
    CHECK(contains(house.a.ask("open &transport=tcp"), "Denied"));
    CHECK(house.a.ask("open &transport=shm") == "open shm");
    CHECK(house.daemon.stop());
}

TEST_CASE("a tenant that was opened with a key is whoever has the key, over tcp too") {
    if (!is_root()) return;
    House house;
    CHECK(house.a.ask("open &tenant=keyed&key=right&transport=tcp") == "open tcp");
    CHECK(house.a.ask("fill 1") == "stored 8");
    const auto keys = house.a.ask("keys");
    CHECK(house.b.ask("open &tenant=keyed&key=right&transport=tcp") == "open tcp");
    CHECK(house.b.ask("keys") == keys);
    CHECK(house.b.ask("open &tenant=keyed&key=right&transport=shm") == "open shm");
    for (const char* proof : {"", "&key=wrong", "&key=right2", "&key=Right"}) {
        CAPTURE(proof);
        CHECK(contains(house.b.ask(fmt::format("open &tenant=keyed{}&transport=tcp", proof)), "Denied"));
        CHECK(contains(house.a.ask(fmt::format("open &tenant=keyed{}&transport=shm", proof)), "Denied"));
    }
    CHECK(house.daemon.stop());
}

TEST_CASE("another tenant's exact digests find nothing, and what is stored under them is nobody else's") {
    if (!is_root()) return;
    House house;
    CHECK(house.a.ask("fill 1") == "stored 8");
    const auto keys = house.a.ask("keys");
    CHECK(keys != house.b.ask("keys"));  // the same prompt, the same model, another secret
    CHECK(house.b.ask("probe " + keys) == "of 8: matched 0 existing 0 got 0 removed 0");
    CHECK(house.b.ask("impersonate " + keys) == "stored 8");
    CHECK(house.a.ask("hold") == "holds 8");
    CHECK(house.a.ask("held") == "equal 8");
    CHECK(house.b.ask("probe " + keys) == "of 8: matched 8 existing 8 got 8 removed 8");
    CHECK(house.a.ask("held") == "equal 8");
    CHECK(house.a.ask("look b") == "no mark");
    CHECK(house.b.ask("look a") == "no mark");
    CHECK(house.daemon.stop());
}

TEST_CASE(
    "descriptors that somebody has seen open nothing without their tokens, nor does a namespace's number") {
    if (!is_root()) return;
    House house;
    CHECK(house.a.ask("fill 1") == "stored 8");
    std::istringstream seen(house.a.ask("grants"));
    std::string id;
    std::string descriptors;
    seen >> id;
    std::getline(seen, descriptors);
    const auto count = std::ranges::count(descriptors, ' ');
    CHECK(count >= 3);  // index, control page, a segment
    CHECK(house.b.ask("forge" + descriptors) == fmt::format("Denied {}", 12 * count));
    CHECK(house.b.ask("namespace " + id) ==
          "attach Denied match Denied exists Denied get Denied remove Denied list Denied");
    CHECK(house.daemon.stop());
}

TEST_CASE("the kernel shows one tenant nothing of another's files and memory, and of its own only to read") {
    if (!is_root()) return;
    House house;
    CHECK(house.a.ask("fill 1") == "stored 8");
    CHECK(house.b.ask("fill 1") == "stored 8");
    std::string names;
    for (const auto& file : std::filesystem::directory_iterator(house.daemon.runtime_folder())) {
        if (!file.is_regular_file()) continue;
        names += " " + file.path().string();
        struct stat status {};
        CHECK(::stat(file.path().c_str(), &status) == 0);
        CHECK((status.st_mode & 0777) == 0600);
    }
    CHECK_FALSE(contains(names, "/segment-"));  // which nobody can even name
    const auto seen =
        house.b.ask(fmt::format("kernel {} {}{}", house.a.pid(), house.daemon.process().pid(), names));
    CHECK(seen == "fds EACCES, file EACCES, list EACCES, maps EACCES, memory EACCES, read EPERM");
    CHECK(
        house.b.ask("descriptors") ==
        "chmod EPERM, map EACCES, protect EACCES, punch EBADF, reopen EACCES, truncate EINVAL, write EBADF");
    CHECK(house.daemon.stop());
}

// Segments move from who has most to who needs some: they arrive empty, and what is left behind is empty.
TEST_CASE("memory that moves from one tenant to another carries nothing over, under pressure") {
    if (!is_root()) return;
    House house;
    CHECK(house.a.ask("fill 40") == "stored 320");  // 19 MB, more than there is
    CHECK(house.a.ask("look a") == "marks");        // the search does find
    CHECK(house.a.ask("fill 1") != "wrong bytes");
    CHECK(house.a.ask("hold") == "holds 8");
    for (int round = 0; round < 3; ++round) {
        CHECK(house.b.ask("fill 40") != "wrong bytes");
        CHECK(house.b.ask("look b") == "marks");
        CHECK(house.b.ask("look a") == "no mark");
        CHECK(house.a.ask("look b") == "no mark");
        CHECK(house.a.ask("held") == "equal 8");
        CHECK(house.a.ask("fill 40") != "wrong bytes");
        CHECK(house.a.ask("look b") == "no mark");
        CHECK(house.b.ask("look a") == "no mark");
    }
    const auto watcher = testing::open_pool(house.daemon.uri(kPatient + "&transport=tcp"));
    CHECK(testing::statistic(*watcher, "domains") == 3);
    CHECK(testing::statistic(*watcher, "evicted_blocks") > 500);
    CHECK(house.daemon.stop());
}
