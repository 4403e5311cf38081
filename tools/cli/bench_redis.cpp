// Redis beside the pool: one server, a connection for each thread, batches pipelined.
#include "bench_rival.h"
#include "redis_server.h"

#include <algorithm>
#include <cstring>
#include <deque>

#include <hiredis/hiredis.h>

namespace cmpool::cli {
namespace {

using client::Digest;

constexpr timeval kConnectDeadline{.tv_sec = 5, .tv_usec = 0};
/// A call that takes longer ends the row.
constexpr timeval kCallDeadline{.tv_sec = 30, .tv_usec = 0};

struct ContextEnd {
    void operator()(redisContext* context) const { redisFree(context); }
};
struct ReplyEnd {
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, ReplyEnd>;

/// A word of a command; hiredis copies it.
std::string_view word(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
std::string_view word(const Digest& key) { return word(std::as_bytes(std::span(key.bytes))); }

class Connection {
public:
    [[nodiscard]] static Result<std::unique_ptr<Connection>> open(std::uint16_t port) {
        std::unique_ptr<Connection> connection(new Connection(port));
        auto* context = connection->context_.get();
        if (context == nullptr || context->err != 0 || redisSetTimeout(context, kCallDeadline) != REDIS_OK)
            return fail(connection->broken());
        // Its buffer would be given back and taken anew around each large value.
        context->reader->maxbuf = 0;
        return connection;
    }
    /// Sent with the first take() that follows.
    void append(std::initializer_list<std::string_view> words) {
        append(std::span(words.begin(), words.size()));
    }
    void append(std::span<const std::string_view> words) {
        words_.clear();
        lengths_.clear();
        for (const auto& one : words) {
            words_.push_back(one.data());
            lengths_.push_back(one.size());
        }
        redisAppendCommandArgv(context_.get(), static_cast<int>(words.size()), words_.data(),
                               lengths_.data());
    }
    /// The next answer. Errors: PeerDown; NoCapacity with redis' own words.
    [[nodiscard]] Result<Reply> take() {
        void* raw = nullptr;
        if (redisGetReply(context_.get(), &raw) != REDIS_OK || raw == nullptr) return fail(broken());
        Reply reply(static_cast<redisReply*>(raw));
        if (reply->type == REDIS_REPLY_ERROR)
            return fail(Errc::NoCapacity, "redis says \"{}\"", std::string_view(reply->str, reply->len));
        return reply;
    }
    /// Takes so many answers that say OK.
    [[nodiscard]] Result<void> take_done(std::size_t count) {
        for (std::size_t index = 0; index < count; ++index) {
            if (auto reply = take(); !reply) return fail(reply.error());
        }
        return {};
    }

private:
    explicit Connection(std::uint16_t port)
        : context_(redisConnectWithTimeout("127.0.0.1", port, kConnectDeadline)) {}
    [[nodiscard]] Error broken() const {
        return {Errc::PeerDown, fmt::format("the connection to redis-server failed: {}",
                                            context_ == nullptr ? "out of memory" : context_->errstr)};
    }

    std::unique_ptr<redisContext, ContextEnd> context_;
    std::vector<const char*> words_;
    std::vector<std::size_t> lengths_;
};

class GetWork final : public Work {
public:
    GetWork(const BenchCase& row, std::unique_ptr<Connection> redis, const std::vector<Digest>& keys,
            MutableBytes buffer)
        : row_(row),
          redis_(std::move(redis)),
          keys_(keys),
          buffer_(buffer),
          rng_(SystemEntropy().next_u64()),
          wanted_(row.batch) {}
    void prepare() override {
        for (auto& wanted : wanted_) wanted = &keys_[rng_.below(keys_.size())];
    }
    Result<void> run() override {
        for (const auto* key : wanted_) redis_->append({"GET", word(*key)});
        for (std::uint32_t index = 0; index < row_.batch; ++index) {
            const auto reply = redis_->take();
            if (!reply) return fail(reply.error());
            const auto& value = **reply;
            if (value.type != REDIS_REPLY_STRING || value.len != row_.size)
                return fail(Errc::Corrupt, "expected {} bytes from redis, saw {}", row_.size,
                            value.type == REDIS_REPLY_STRING ? fmt::format("{}", value.len) : "none");
            std::memcpy(buffer_.data() + index * row_.size, value.str, value.len);
        }
        return {};
    }

private:
    BenchCase row_;
    std::unique_ptr<Connection> redis_;
    const std::vector<Digest>& keys_;
    MutableBytes buffer_;
    Rng rng_;
    std::vector<const Digest*> wanted_;
};

/// Stores new blocks, and before that removes the oldest of its own once they are too many.
class PutWork final : public Work {
public:
    PutWork(const BenchCase& row, std::unique_ptr<Connection> redis, std::uint64_t own_blocks,
            MutableBytes buffer)
        : row_(row),
          redis_(std::move(redis)),
          own_batches_(std::max<std::uint64_t>(own_blocks / row.batch, 1)),
          buffer_(buffer),
          rng_(SystemEntropy().next_u64()) {}
    void prepare() override {
        if (stored_.size() >= own_batches_) {
            std::vector<std::string_view> words{"DEL"};
            for (const auto& key : stored_.front()) words.push_back(word(key));
            redis_->append(words);
            if (auto removed = redis_->take(); !removed) trouble_ = removed.error();
            stored_.pop_front();
        }
        auto& batch = stored_.emplace_back();
        for (std::uint32_t index = 0; index < row_.batch; ++index) batch.push_back(random_key(rng_));
    }
    Result<void> run() override {
        if (trouble_) return fail(*trouble_);
        for (std::uint32_t index = 0; index < row_.batch; ++index) {
            const Bytes block = buffer_.subspan(index * row_.size, row_.size);
            redis_->append({"SET", word(stored_.back()[index]), word(block)});
        }
        return redis_->take_done(row_.batch);
    }

private:
    BenchCase row_;
    std::unique_ptr<Connection> redis_;
    std::uint64_t own_batches_;
    MutableBytes buffer_;
    Rng rng_;
    std::deque<std::vector<Digest>> stored_;
    std::optional<Error> trouble_;
};

class Redis final : public Rival {
public:
    Redis(std::unique_ptr<RedisServer> server, std::unique_ptr<Connection> own)
        : server_(std::move(server)), own_(std::move(own)) {}

    Result<void> fill(std::span<const Digest> keys, std::uint64_t size, Progress& progress) override {
        Rng rng(SystemEntropy().next_u64());
        std::vector<std::byte> block(size);
        for (auto& byte : block) byte = static_cast<std::byte>(rng.next());
        const std::size_t step = BenchCase{.size = size}.fill_blocks();
        for (std::size_t first = 0; first < keys.size(); first += step) {
            progress.at(first, keys.size());
            const auto some = keys.subspan(first, std::min(step, keys.size() - first));
            for (const auto& key : some) own_->append({"SET", word(key), word(block)});
            if (auto done = own_->take_done(some.size()); !done) return done;
        }
        return {};
    }
    void clear() override {
        own_->append({"FLUSHALL", "SYNC"});
        (void)own_->take();  // the next fill() or work() tells what is wrong
    }
    Result<Contestant> work(const BenchCase& row, const std::vector<Digest>& keys, std::uint64_t own_blocks,
                            MutableBytes buffer) override {
        auto connection = Connection::open(server_->port());
        if (!connection) return fail(connection.error());
        Contestant redis{.side = Side::Redis, .name = "redis", .work = nullptr};
        if (row.op == BenchOp::Put) {
            redis.work = std::make_unique<PutWork>(row, std::move(*connection), own_blocks, buffer);
        } else {
            redis.work = std::make_unique<GetWork>(row, std::move(*connection), keys, buffer);
        }
        return redis;
    }

private:
    std::unique_ptr<RedisServer> server_;
    std::unique_ptr<Connection> own_;
};

}  // namespace

Result<std::unique_ptr<Rival>> start_redis() {
    auto server = RedisServer::start();
    if (!server) return fail(server.error());
    auto own = Connection::open((*server)->port());
    if (!own) return fail(own.error());
    return std::make_unique<Redis>(std::move(*server), std::move(*own));
}

}  // namespace cmpool::cli
