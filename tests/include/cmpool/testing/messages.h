#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <cmpool/model/digest.h>
#include <cmpool/wire/messages.h>

namespace cmpool::testing {

/// One message of each kind with every field set to something else, and the lists they look into.
///
///   Lifetime  the messages' spans end with this
class SampleMessages {
public:
    SampleMessages() {
        for (std::uint8_t index = 0; index < 3; ++index) digests_.push_back(digest(index));
        items_.push_back({.checksum = 0x1122334455667788,
                          .group = 2,
                          .window_offset = 3,
                          .length = 4,
                          .position = 5,
                          .cost_us = 6,
                          .digest = digest(7),
                          .parent = digest(8)});
        items_.push_back({.checksum = 9, .length = 10, .digest = digest(11)});
        listed_.push_back({.length = 1, .position = 2, .age_ms = 3, .digest = digest(4)});

        add(wire::Hello{.client = "client-1"});
        add(wire::Welcome{.incarnation = 77,
                          .node = "node-1",
                          .version = "0.1.0",
                          .local_address = "/run/cmpool.sock",
                          .node_id = 78});
        add(wire::OpenNamespace{spec(), "tenant key", digest(1)});
        add(wire::NamespaceOpened{3, digest(2), 4096, 2});
        add(wire::Attach{3, 1});
        add(wire::Attached{10, 1 << 20, grant(1), grant(2), {grant(3), grant(4)}});
        add(wire::Match{3, digests_, 500});
        add(wire::Matched{2, 99, 500});
        add(wire::Release{lease_ids_});
        add(wire::Exists{3, digests_});
        add(wire::Get{3, digests_, rooms_, true, ranges_});
        add(wire::Remove{3, digests_});
        add(wire::Outcomes{outcomes_, rooms_, checksums_});
        add(wire::Put{3, items_, {grant(5)}, true});
        add(wire::StatsRequest{});
        add(wire::Stats{{{"hits", 1}, {"epoch", 2, wire::Adds::Least}}});
        add(wire::List{3, 17, 100});
        add(wire::Listed{listed_, 18});
        add(wire::Failed{Errc::Denied, "tenant \"a\" is somebody else's"});
        add(wire::Members{{.epoch = 6, .members = {member(1), member(2)}}});
        add(wire::ViewRequest{});
        add(wire::Join{member(3), "cluster key", 8});
        add(wire::Renew{4, 5});
        add(wire::Leave{6, 7});
        add(wire::Lease{3000});
        add(wire::Resolve{{spec(), "tenant key", digest(1), "cluster key"}, 1000, "cluster key"});
        add(wire::Resolved{3, 4, digest(5), 2, {1ULL << 40, 7, 3600}});
        add(wire::ListNamespaces{"acme", "tenant key", "m", "1"});
        add(wire::ChangeNamespace{"acme", "tenant key", "m", "1", 2, true, {1ULL << 40, 7, 3600}});
        add(wire::Namespaces{{{3, "m", "1", "dtype=bf16", 2, {1ULL << 40, 7, 3600}}}});
        add(wire::ChangeMember{"node-1", "cluster key", 4, model::MemberState::Draining, true});
        add(wire::BrokenSeals{9});
        add(wire::Sums{checksums_});
    }
    SampleMessages(const SampleMessages&) = delete;
    SampleMessages& operator=(const SampleMessages&) = delete;

    [[nodiscard]] const std::vector<wire::Message>& all() const noexcept { return messages_; }

    [[nodiscard]] static model::Digest digest(std::uint8_t first) {
        model::Digest out;
        for (std::size_t index = 0; index < out.bytes.size(); ++index) {
            out.bytes[index] = static_cast<std::byte>(first + index);
        }
        return out;
    }
    [[nodiscard]] static model::NamespaceSpec spec() {
        return {.tenant = "acme",
                .model = "meta-llama/Llama-3-8B",
                .revision = "1",
                .dtype = "bf16",
                .layout = "layers,kv,tokens,heads,dim",
                .parallel = "tp1",
                .engine = "cmpool-engine 1",
                .block_tokens = 16,
                .group_blocks = 64,
                .sealed = true};
    }
    [[nodiscard]] static model::Member member(std::uint64_t node_id) {
        return {.node_id = node_id,
                .incarnation = 10 * node_id,
                .name = "node-" + std::to_string(node_id),
                .address = "10.0.0.1:7411",
                .host = "host",
                .zone = "zone",
                .weight = 3,
                .state = model::MemberState::Draining};
    }
    [[nodiscard]] static wire::Grant grant(std::uint32_t index) {
        return {index,
                index * 1000ULL,
                index * 0x0101010101010101ULL,
                {std::byte{1}, std::byte{2}, std::byte{3}}};
    }

private:
    void add(wire::Body body) { messages_.push_back({messages_.size() + 1, 5, std::move(body)}); }

    std::vector<model::Digest> digests_;
    std::vector<wire::PutItem> items_;
    std::vector<wire::ListedBlock> listed_;
    std::vector<std::uint64_t> lease_ids_{11, 12, 13};
    std::vector<std::uint32_t> rooms_{100, 200, 300};
    std::vector<model::ByteRange> ranges_{{5, 6}, {}, {0, 7}};
    std::vector<std::uint64_t> checksums_{21, 22, 23};
    std::vector<wire::Outcome> outcomes_{wire::Outcome::Ok, wire::Outcome::Miss, wire::Outcome::Later};
    std::vector<wire::Message> messages_;
};

}  // namespace cmpool::testing
