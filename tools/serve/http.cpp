#include "http.h"

#include "completion.h"
#include "metrics.h"

#include <atomic>
#include <ctime>
#include <optional>

#include <cmpool/base/rng.h>
#include <cmpool/tools/http_bind.h>

#include <httplib.h>
#include <netdb.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>

namespace cmpool::serve {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// A client that left is noticed after so long; a stop, too.
constexpr Nanos kLook = std::chrono::milliseconds(50);
constexpr Nanos kLookAtWorkers = std::chrono::milliseconds(500);
constexpr const char* kJson = "application/json";
// Beside those that complete something: health and metrics are asked while all of these are taken.
constexpr std::size_t kSpareThreads = 8;
constexpr std::size_t kKeepAliveRequestsMax = 1000;
constexpr std::time_t kKeepAliveSeconds = 2;
constexpr std::time_t kReadSeconds = 10;

std::string dump(const ordered_json& object) {
    return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

Refusal refusal_of(const Error& error) {
    const auto server = [&](int status, const char* code) {
        return Refusal{.status = status, .message = error.detail, .type = "server_error", .code = code};
    };
    switch (error.code) {
        case Errc::Invalid:
            return {.message = error.detail};
        case Errc::NoCapacity:
            return {.status = 429, .message = error.detail, .type = "rate_limit_error", .code = "overloaded"};
        case Errc::Deadline:
            return server(504, "timeout");
        case Errc::PeerDown:
            return server(503, "unavailable");
        default:
            return server(500, "internal_error");
    }
}

void refuse(httplib::Response& response, const Refusal& refusal) {
    response.status = refusal.status;
    response.set_content(to_json(refusal), kJson);
}

/// One completion from its first piece to its last, as events or as one object. It ends when the client
/// leaves, too: then nothing more is computed for it.
class Session {
public:
    Session(loop::Router& router, Metrics& metrics, const engine::Tokenizer& tokenizer, std::string model,
            Completion wanted, std::shared_ptr<loop::Answer> answer, Instant begun, Instant until)
        : router_(router),
          metrics_(metrics),
          text_(tokenizer, wanted.stops, wanted.prompt.back()),
          model_(std::move(model)),
          wanted_(std::move(wanted)),
          answer_(std::move(answer)),
          begun_(begun),
          until_(until),
          created_(std::time(nullptr)) {
        SystemEntropy entropy;
        id_ = fmt::format("cmpl-{:016x}", entropy.next_u64());
    }
    ~Session() {
        if (!ended_) {
            router_.cancel(*answer_);
            metrics_.cancelled();
        }
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    /// The first piece; nothing when none comes in time.
    [[nodiscard]] std::optional<Error> begin(const std::atomic<bool>& stopping) {
        while (!first_) {
            if (stopping.load()) return Error{Errc::PeerDown, "the server is stopping"};
            if (clock_.now() >= until_) return Error{Errc::Deadline, "no token came in time"};
            first_ = answer_->next(kLook);
        }
        if (first_->error) {
            ended_ = true;
            return first_->error;
        }
        metrics_.first_token(clock_.now() - begun_);
        return std::nullopt;
    }
    /// A little more of the body; false: give up.
    bool provide(httplib::DataSink& sink) {
        auto piece = first_ ? std::exchange(first_, std::nullopt) : answer_->next(kLook);
        if (!piece) return sink.is_writable() && clock_.now() < until_;
        if (piece->error) {
            ended_ = true;
            const std::string error = to_json(refusal_of(*piece->error));
            const std::string body = wanted_.stream ? "data: " + error + "\n\n" : error;
            sink.write(body.data(), body.size());
            sink.done();
            return true;
        }
        reused_ = piece->reused;
        std::string shown;
        for (const std::uint32_t token : piece->tokens) {
            ++given_;
            shown += text_.add(token);
        }
        metrics_.generated(piece->tokens.size());
        const bool last = piece->last() || text_.stopped();
        if (piece->last()) ended_ = true;
        if (last) shown += text_.end();
        const bool stop = text_.stopped() || piece->finish == engine::Finish::Stop;
        const char* finish = !last ? nullptr : stop ? "stop" : "length";
        return wanted_.stream ? stream(sink, shown, finish) : collect(sink, shown, finish);
    }

private:
    [[nodiscard]] ordered_json object(const std::string& text, const char* finish) const {
        ordered_json choice{{"index", 0}, {"text", text}, {"logprobs", nullptr}, {"finish_reason", nullptr}};
        if (finish != nullptr) choice["finish_reason"] = finish;
        return {{"id", id_},
                {"object", "text_completion"},
                {"created", created_},
                {"model", model_},
                {"choices", ordered_json::array({choice})}};
    }
    [[nodiscard]] ordered_json usage() const {
        return {{"prompt_tokens", wanted_.prompt.size()},
                {"completion_tokens", given_},
                {"total_tokens", wanted_.prompt.size() + given_},
                {"prompt_tokens_details", {{"cached_tokens", reused_}}}};
    }
    bool stream(httplib::DataSink& sink, const std::string& shown, const char* finish) {
        std::string events;
        // A token may show nothing yet: half of a character, or what may become a stop text.
        if (!shown.empty() || finish != nullptr) events = "data: " + dump(object(shown, finish)) + "\n\n";
        if (finish != nullptr) {
            if (wanted_.usage) {
                auto last = object("", nullptr);
                last["choices"] = ordered_json::array();
                last["usage"] = usage();
                events += "data: " + dump(last) + "\n\n";
            }
            events += "data: [DONE]\n\n";
        }
        if (!events.empty() && !sink.write(events.data(), events.size())) return false;
        if (finish != nullptr) sink.done();
        return sink.is_writable() || finish != nullptr;
    }
    bool collect(httplib::DataSink& sink, const std::string& shown, const char* finish) {
        whole_ += shown;
        if (finish == nullptr) return sink.is_writable();
        auto body = object(whole_, finish);
        body["usage"] = usage();
        const std::string text = dump(body);
        sink.write(text.data(), text.size());
        sink.done();
        return true;
    }

    loop::Router& router_;
    Metrics& metrics_;
    TextStream text_;
    std::string model_;
    Completion wanted_;
    std::shared_ptr<loop::Answer> answer_;
    SystemClock clock_;
    Instant begun_, until_;
    std::time_t created_;
    std::string id_, whole_;
    std::optional<loop::Piece> first_;
    std::size_t given_ = 0;
    std::uint64_t reused_ = 0;
    bool ended_ = false;  // the router knows nothing of it any more
};

}  // namespace

class Front::Inside {
public:
    Inside(loop::Router& router, engine::Tokenizer tokenizer, FrontOptions options)
        : router_(router), tokenizer_(std::move(tokenizer)), options_(std::move(options)) {
        const std::size_t threads = options_.requests_max + kSpareThreads;
        server_.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
        server_.set_payload_max_length(kBodyBytesMax);
        server_.set_tcp_nodelay(true);
        server_.set_keep_alive_max_count(kKeepAliveRequestsMax);
        server_.set_keep_alive_timeout(kKeepAliveSeconds);
        server_.set_read_timeout(kReadSeconds);
        // The library's own would share the port with whoever has it already.
        server_.set_socket_options([](int socket) {
            const int on = 1;
            ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        });
        server_.Post("/v1/completions", [this](const auto& in, auto& out) { complete(in, out); });
        server_.Get("/v1/models", [this](const auto&, auto& out) { models(out); });
        server_.Get("/health", [this](const auto&, auto& out) { health(out); });
        server_.Get("/metrics", [this](const auto&, auto& out) {
            out.set_content(metrics_.text(router_.look(kLookAtWorkers)), "text/plain; version=0.0.4");
        });
        server_.set_error_handler([](const auto& in, auto& out) { explain(in, out); });
        server_.set_logger([this](const auto& in, const auto& out) {
            if (in.path == "/v1/completions") metrics_.answered(out.status);
        });
    }

    httplib::Server& server() noexcept { return server_; }
    void stop() {
        stopping_.store(true);
        server_.stop();
    }

private:
    /// What the library refuses by itself gets a body, too.
    static void explain(const httplib::Request& in, httplib::Response& out) {
        if (!out.body.empty()) return;
        Refusal refusal{.status = out.status, .message = "the request cannot be read"};
        if (out.status == 404)
            refusal.message = fmt::format("there is no {} {}", in.method, in.path.substr(0, 100));
        if (out.status == 413)
            refusal.message = fmt::format("expected a body of at most {} bytes", kBodyBytesMax);
        out.set_content(to_json(refusal), kJson);
    }

    void complete(const httplib::Request& in, httplib::Response& out) {
        const Instant begun = clock_.now();
        auto wanted = read_completion(in.body, tokenizer_, options_.model, options_.context);
        if (!wanted) return refuse(out, wanted.error());
        // Counts as one of those that run until its body has gone out.
        const std::shared_ptr<void> place(nullptr, [this](void*) { metrics_.leave(); });
        if (metrics_.enter() > options_.requests_max) {
            return refuse(out, {.status = 429,
                                .message = fmt::format("{} requests run already: try again later",
                                                       options_.requests_max),
                                .type = "rate_limit_error",
                                .code = "overloaded"});
        }
        metrics_.prompted(wanted->prompt.size());
        const bool stream = wanted->stream;
        auto answer = router_.ask(wanted->prompt, wanted->output_max, options_.stop_tokens);
        const auto session =
            std::make_shared<Session>(router_, metrics_, tokenizer_, options_.model, std::move(*wanted),
                                      std::move(answer), begun, begun + options_.request_limit);
        if (const auto error = session->begin(stopping_)) return refuse(out, refusal_of(*error));
        out.set_chunked_content_provider(stream ? "text/event-stream" : kJson,
                                         [this, session, place](std::size_t, httplib::DataSink& sink) {
                                             return !stopping_.load() && session->provide(sink);
                                         });
    }

    void models(httplib::Response& out) const {
        const ordered_json model{{"id", options_.model},
                                 {"object", "model"},
                                 {"created", started_},
                                 {"owned_by", "cmpool"},
                                 {"max_model_len", options_.context}};
        out.set_content(dump({{"object", "list"}, {"data", ordered_json::array({model})}}), kJson);
    }
    void health(httplib::Response& out) const {
        const bool fine = router_.facts().has_value();
        out.status = fine ? 200 : 503;
        out.set_content(dump({{"status", fine ? "ok" : "no decode worker is there"}}), kJson);
    }

    loop::Router& router_;
    engine::Tokenizer tokenizer_;
    FrontOptions options_;
    Metrics metrics_;
    SystemClock clock_;
    std::time_t started_ = std::time(nullptr);
    std::atomic<bool> stopping_{false};
    httplib::Server server_;
};

Front::Front(loop::Router& router, engine::Tokenizer tokenizer, FrontOptions options)
    : inside_(std::make_unique<Inside>(router, std::move(tokenizer), std::move(options))) {}
Front::~Front() = default;

Result<std::string> Front::bind(const std::string& address) {
    return tools::bind_http(inside_->server(), address);
}

void Front::run() { inside_->server().listen_after_bind(); }
void Front::stop() { inside_->stop(); }

}  // namespace cmpool::serve
