#include <string>

#include <cmpool/client/pool_uri.h>

using namespace cmpool;
using namespace std::chrono_literals;
using client::PoolUri;
using client::Transport;

TEST_CASE("a URI says where, how, how long and who") {
    const auto plain = PoolUri::parse("cmpool://127.0.0.1:7411");
    REQUIRE(plain);
    CHECK(plain->address == "127.0.0.1:7411");
    CHECK(plain->transport == Transport::Auto);
    CHECK(plain->deadline == client::kDeadlineDefault);
    CHECK(plain->tenant.empty());
    CHECK(plain->tenant_key.empty());
    CHECK(PoolUri::parse(client::kDefaultUri)->address == plain->address);

    const auto full = PoolUri::parse(
        "cmpool://pool-1.example:65535?transport=tcp&deadline_ms=1500&tenant=acme&key=a=b%20c");
    REQUIRE(full);
    CHECK(full->address == "pool-1.example:65535");
    CHECK(full->transport == Transport::Tcp);
    CHECK(full->deadline == 1500ms);
    CHECK(full->tenant == "acme");
    CHECK(full->tenant_key == "a=b c");

    CHECK(PoolUri::parse("cmpool://h:1?transport=shm")->transport == Transport::Shm);
    CHECK(PoolUri::parse("cmpool://h:1?transport=auto")->transport == Transport::Auto);
    CHECK(plain->kv.empty());
    CHECK(PoolUri::parse("cmpool://h:1?kv=auto")->kv.empty());
    CHECK(PoolUri::parse("cmpool://h:1?kv=messages")->kv == client::kMessages);
    CHECK(PoolUri::parse("cmpool://h:1?kv=verbs")->kv == "verbs");
    CHECK(PoolUri::parse("cmpool://[::1]:7411")->address == "[::1]:7411");
    CHECK(PoolUri::parse("cmpool://h:1?")->address == "h:1");
    CHECK(PoolUri::parse("cmpool://h:1?deadline_ms=1")->deadline == 1ms);
    CHECK(PoolUri::parse("cmpool://h:1?deadline_ms=3600000")->deadline == 1h);
    CHECK(PoolUri::parse("cmpool://h:1?key=")->tenant_key.empty());
    CHECK(PoolUri::parse("cmpool://h:1?seal_key_file=/etc/my%20key")->seal_key_file == "/etc/my key");
    CHECK(PoolUri::parse("cmpool://h:1?key=a%26b%3d")->tenant_key == "a&b=");
    for (const char* cut : {"cmpool://h:1?key=%", "cmpool://h:1?key=%2", "cmpool://h:1?key=%2x"})
        CHECK_FALSE(PoolUri::parse(cut));
}

TEST_CASE("a URI that is none is refused with what was expected and what was seen") {
    const struct {
        const char* uri;
        const char* says;
    } cases[]{
        {"", "expected a pool such as cmpool://HOST:PORT, saw \"\""},
        {"http://h:1", "expected a pool such as cmpool://HOST:PORT, saw \"http://h:1\""},
        {"CMPOOL://h:1", "expected a pool such as cmpool://HOST:PORT, saw \"CMPOOL://h:1\""},
        {"cmpool://", "expected HOST:PORT in a pool's address, saw \"\""},
        {"cmpool://host", "expected HOST:PORT in a pool's address, saw \"host\""},
        {"cmpool://:7411", "expected HOST:PORT in a pool's address, saw \":7411\""},
        {"cmpool://h:", "expected a port from 1 to 65535, saw \"\""},
        {"cmpool://h:0", "expected a port from 1 to 65535, saw \"0\""},
        {"cmpool://h:65536", "expected a port from 1 to 65535, saw \"65536\""},
        {"cmpool://h:-1", "expected a port from 1 to 65535, saw \"-1\""},
        {"cmpool://h:99999999999999999999", "expected a port from 1 to 65535, saw \"99999999999999999999\""},
        {"cmpool://h:7411/", "expected a port from 1 to 65535, saw \"7411/\""},
        {"cmpool://h:1?transport=rdma", "expected transport=shm, tcp or auto, saw \"rdma\""},
        {"cmpool://h:1?transport", "expected transport=shm, tcp or auto, saw \"\""},
        {"cmpool://h:1?kv=fast", "expected kv=auto, messages or verbs, saw \"fast\""},
        {"cmpool://h:1?deadline_ms=0", "expected deadline_ms from 1 to 3600000, saw \"0\""},
        {"cmpool://h:1?deadline_ms=3600001", "expected deadline_ms from 1 to 3600000, saw \"3600001\""},
        {"cmpool://h:1?deadline_ms=1s", "expected deadline_ms from 1 to 3600000, saw \"1s\""},
        {"cmpool://h:1?tenants=a",
         "expected transport, kv, deadline_ms, tenant, key or seal_key_file after \"?\", saw \"tenants\""},
        {"cmpool://h:1?key=a&&tenant=b",
         "expected transport, kv, deadline_ms, tenant, key or seal_key_file after \"?\", saw \"\""},
    };
    for (const auto& [uri, says] : cases) {
        CAPTURE(uri);
        const auto parsed = PoolUri::parse(uri);
        REQUIRE_FALSE(parsed);
        CHECK(parsed.error().code == Errc::Invalid);
        CHECK(parsed.error().detail == says);
    }
}
