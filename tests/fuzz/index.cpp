// The index, the blocks and the control page as a hostile other side may leave them: a client's probe, pin
// and copy over memory that says anything, and the server's look at what a client wrote. Whatever is there,
// the answer is a miss or the block that was asked for, and nobody looks beyond the memory.
//
//   Input  bucket bits; then steps of 12 bytes: what, three of place, eight of value
#include "attachment.h"
#include "index_writer.h"
#include "pin_board.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include <cmpool/base/assert.h>

using namespace cmpool;

namespace {

constexpr std::uint64_t kSegmentBytes = 1024;
constexpr std::size_t kPayloadBytes = 100;
constexpr std::size_t kStepBytes = 12;
constexpr std::size_t kStepsMax = 64;
constexpr std::uint64_t kPinBytesMax = 4096;

// Memory that ends where it ends: the address sanitizer sees one byte more.
class Words final : public transport::Segment {
public:
    explicit Words(std::size_t bytes)
        : bytes_(bytes), memory_(new (std::align_val_t{128}) std::byte[bytes]{}) {}
    ~Words() override { ::operator delete[](memory_, std::align_val_t{128}); }
    Words(const Words&) = delete;
    Words& operator=(const Words&) = delete;

    [[nodiscard]] MutableBytes bytes() noexcept override { return {memory_, bytes_}; }
    [[nodiscard]] const transport::Descriptor& descriptor() const noexcept override { return descriptor_; }
    [[nodiscard]] transport::Token token() const noexcept override { return {}; }
    [[nodiscard]] transport::Revocation revoke() override { return transport::Revocation::Hard; }
    void punch() noexcept override {}

private:
    std::size_t bytes_;
    std::byte* memory_;
    transport::Descriptor descriptor_;
};

struct Alive final : pool::ProcessWatch::Handle {
    [[nodiscard]] bool alive() const noexcept override { return false; }
};

struct World {
    explicit World(unsigned bits)
        : bucket_bits(bits),
          index(pool::IndexWriter::table_bytes(bits)),
          segment(kSegmentBytes),
          writer(index.bytes(), bits, 7) {
        const std::array<std::byte, 1> name{std::byte{1}};
        key = model::plain_digest(model::DigestKind::Content, name);
        auto owned = std::make_unique<Words>(sizeof(model::ControlPage));
        control = owned->bytes();
        page = board.add(std::move(owned), std::make_shared<Alive>());
        client.emplace(nullptr, index.bytes(), bits, nullptr, control, kSegmentBytes, kPinBytesMax);
        client->add_segment(0, nullptr, segment.bytes());

        // One block that is really there: hostile memory is most dangerous where it is nearly right.
        model::BlockHeader header{.magic = model::kHeaderMagic, .digest = key, .length = kPayloadBytes};
        std::memcpy(segment.bytes().data(), &header, sizeof header);
        CMPOOL_ASSERT(writer.insert(key.prefix(), {0, model::units_for(kPayloadBytes), 1}, 0));
    }

    unsigned bucket_bits;
    Words index, segment;
    pool::IndexWriter writer;
    pool::PinBoard board;
    pool::PinBoard::PageId page = 0;
    MutableBytes control;
    std::optional<client::Attachment> client;
    model::Digest key;
};

void put_word(MutableBytes memory, std::uint64_t place, std::uint64_t value) {
    const std::uint64_t words = memory.size() / sizeof value;
    std::memcpy(memory.data() + place % words * sizeof value, &value, sizeof value);
}

// A slot that is well-formed, and shows the key anywhere.
void show(World& world, std::uint64_t place, std::uint64_t value) {
    const std::uint64_t slots = world.index.bytes().size() / sizeof(model::Bucket) * model::kSlotsPerBucket;
    const std::uint64_t at = place % slots;
    auto* buckets = reinterpret_cast<model::Bucket*>(world.index.bytes().data());
    const model::Location anywhere{value >> model::kUnitsBits,
                                   static_cast<std::uint32_t>(value & ((1u << model::kUnitsBits) - 1)), 1};
    buckets[at / model::kSlotsPerBucket].slots[at % model::kSlotsPerBucket] =
        model::encode_slot(world.key.prefix(), anywhere);
}

void look(World& world, std::uint64_t place, std::uint64_t value) {
    auto& client = *world.client;
    client.prefetch(world.key);
    const auto sighting = client.probe(world.key);
    if (!sighting) return;
    const auto offset = reinterpret_cast<const std::byte*>(sighting->slot) - world.index.bytes().data();
    CMPOOL_ASSERT(offset >= 0 &&
                  static_cast<std::size_t>(offset) + sizeof(model::Slot) <= world.index.bytes().size());
    client.prefetch(*sighting);

    std::vector<std::byte> room(value % 256);
    const MutableBytes into = room;
    const client::GetItem item{
        .key = world.key,
        .into = {&into, 1},
        .range = {static_cast<std::uint32_t>(place % 512),
                  value % 3 == 0 ? UINT32_MAX : static_cast<std::uint32_t>(value % 512)}};
    const bool verify = place % 2 == 0;
    const auto run = std::span(&*sighting, 1);
    const auto pins = client.pin(run);
    const auto copied = pins.empty() ? client.copy(item, *sighting, verify, nullptr)
                                     : client.copy_pinned(item, *sighting, verify, nullptr);
    if (copied && copied->outcome == client::Outcome::Hit) {
        const Bytes block = client.extent(sighting->at);
        CMPOOL_ASSERT(copied->bytes <= room.size() && copied->bytes + model::kHeaderBytes <= block.size());
        CMPOOL_ASSERT(std::memcmp(block.data() + 16, world.key.bytes.data(), sizeof world.key) == 0);
    }
    client.touch(run);
    client.unpin(pins, run.first(pins.size()));
}

void serve(World& world) {
    world.board.refresh();
    std::vector<std::uint64_t> touches;
    world.board.drain(touches);
    CMPOOL_ASSERT(touches.size() <= model::kTouchRingSlots);
    for (const std::uint64_t word : touches) {
        const auto extent = world.writer.at(word >> model::kGenerationBits);
        CMPOOL_ASSERT(extent == 0 || extent == pool::kNoExtent);
    }
    (void)world.board.counts();
    const auto found = world.writer.find(world.key.prefix());
    CMPOOL_ASSERT(found == 0 || found == pool::kNoExtent);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    World world(data[0] % 4);
    for (std::size_t step = 0; step < kStepsMax && 1 + (step + 1) * kStepBytes <= size; ++step) {
        const std::uint8_t* at = data + 1 + step * kStepBytes;
        std::uint32_t head = 0;
        std::uint64_t value = 0;
        std::memcpy(&head, at, sizeof head);
        std::memcpy(&value, at + sizeof head, sizeof value);
        const std::uint64_t place = head >> 8;
        switch (head % 8) {
            case 0:
                put_word(world.index.bytes(), place, value);
                break;
            case 1:
                put_word(world.segment.bytes(), place, value);
                break;
            case 2:
                put_word(world.control, place, value);
                break;
            case 3:
                put_word(world.control.first(1024), place, value);  // the counts before the pins
                break;
            case 4:
                show(world, place, value);
                break;
            case 5:
                serve(world);
                break;
            default:
                look(world, place, value);
        }
    }
    look(world, 0, 128);
    serve(world);
    world.board.leave(world.page);
    (void)world.board.sweep();
    return 0;
}
