#include "etcd_client.h"

#include <algorithm>

#include <httplib.h>

namespace cmpool::meta {
namespace {

using Json = EtcdClient::Json;
using SteadyClock = std::chrono::steady_clock;

// The codes of gRPC.
constexpr int kInvalidArgument = 3;
constexpr int kDeadlineExceeded = 4;
constexpr int kNotFound = 5;
constexpr int kPermissionDenied = 7;
constexpr int kResourceExhausted = 8;
constexpr int kUnauthenticated = 16;

Errc code_of(int grpc) {
    switch (grpc) {
        case kInvalidArgument:
            return Errc::Invalid;
        case kDeadlineExceeded:
            return Errc::Deadline;
        case kNotFound:
            return Errc::LeaseLost;
        case kPermissionDenied:
        case kUnauthenticated:
            return Errc::Denied;
        case kResourceExhausted:
            return Errc::NoCapacity;
        default:
            return Errc::PeerDown;
    }
}

bool elsewhere_may_help(const Error& error) {
    return error.code == Errc::PeerDown || error.code == Errc::Deadline || error.code == Errc::Corrupt;
}

}  // namespace

EtcdClient::EtcdClient(std::vector<std::string> endpoints) : endpoints_(std::move(endpoints)) { rotate(); }
EtcdClient::~EtcdClient() = default;

void EtcdClient::rotate() {
    at_ = client_ ? (at_ + 1) % endpoints_.size() : 0;
    auto next = std::make_unique<httplib::Client>("http://" + endpoints_[at_]);
    next->set_connection_timeout(kCallLimit);
    next->set_write_timeout(kCallLimit);
    next->set_keep_alive(true);
    next->set_tcp_nodelay(true);
    const std::scoped_lock lock(mutex_);
    client_ = std::move(next);
}

void EtcdClient::stop() {
    stopped_ = true;
    const std::scoped_lock lock(mutex_);
    client_->stop();
}

Result<EtcdClient::Answer> EtcdClient::post(const char* path, std::string body,
                                            std::chrono::milliseconds silence, const Receive& receive) {
    if (stopped_) return fail(Errc::PeerDown, "etcd is not asked any more");
    httplib::Request request;
    request.method = "POST";
    request.path = path;
    request.set_header("Content-Type", "application/json");
    request.body = std::move(body);
    Answer answer;
    request.content_receiver = [&](const char* bytes, std::size_t count, std::uint64_t, std::uint64_t) {
        answer.refused = stopped_ || !receive({bytes, count});
        return !answer.refused;
    };
    httplib::Response response;
    auto error = httplib::Error::Success;
    client_->set_read_timeout(silence);
    const bool sent = client_->send(request, response, error);
    answer.status = response.status;
    if (sent || answer.refused) return answer;
    const auto code = error == httplib::Error::Read || error == httplib::Error::ConnectionTimeout
                          ? Errc::Deadline
                          : Errc::PeerDown;
    return fail(code, "etcd at {} does not answer {}: {}", endpoints_[at_], path, httplib::to_string(error));
}

Result<Json> EtcdClient::call_once(const char* path, const std::string& body) {
    std::string text;
    const auto until = SteadyClock::now() + kCallLimit;
    const auto answer = post(path, body, kCallLimit, [&](std::string_view bytes) {
        text += bytes;
        return text.size() <= kAnswerBytesMax && SteadyClock::now() < until;
    });
    if (!answer) return fail(answer.error());
    if (answer->refused) {
        return fail(Errc::Deadline, "expected an answer of etcd at {} within {} ms and {} bytes, saw {}",
                    endpoints_[at_], kCallLimit.count(), kAnswerBytesMax, text.size());
    }
    auto json = Json::parse(text, nullptr, false);
    if (!json.is_object()) {
        return fail(Errc::Corrupt, "expected etcd at {}, saw something that answers {} with status {}",
                    endpoints_[at_], path, answer->status);
    }
    if (answer->status == 200 && !json.contains("error")) return json;
    // A call that streams wraps its error in an object.
    const Json& error = json.contains("error") && json["error"].is_object() ? json["error"] : json;
    const auto number = [&](const char* name) {
        return error.contains(name) && error[name].is_number_integer() ? error[name].get<int>() : 0;
    };
    return fail(code_of(number("code") != 0 ? number("code") : number("grpc_code")),
                "etcd at {} refuses {} with status {}: {}", endpoints_[at_], path, answer->status,
                error.dump(-1, ' ', false, Json::error_handler_t::replace));
}

Result<Json> EtcdClient::call(const char* path, const Json& body) {
    const std::string text = body.dump();
    // Of an etcd that was silent one endpoint at a time is enough to find out that it still is.
    const std::size_t tries = silent_ ? 1 : std::max<std::size_t>(endpoints_.size(), 2);
    auto answer = call_once(path, text);
    for (std::size_t tried = 1; !answer && elsewhere_may_help(answer.error()); ++tried) {
        rotate();
        if (tried == tries) break;
        answer = call_once(path, text);
    }
    silent_ = !answer && elsewhere_may_help(answer.error());
    return answer;
}

void EtcdClient::stream(const char* path, const Json& body, std::chrono::milliseconds silence,
                        const Each& each) {
    std::string text;
    // How it ends says nothing about what has come.
    (void)post(path, body.dump(), silence, [&](std::string_view bytes) {
        text += bytes;
        for (auto end = text.find('\n'); end != std::string::npos; end = text.find('\n')) {
            const auto message = Json::parse(text.substr(0, end), nullptr, false);
            text.erase(0, end + 1);
            if (!message.is_object() || !each(message)) return false;
        }
        return text.size() <= kAnswerBytesMax;
    });
    if (!stopped_) rotate();
}

}  // namespace cmpool::meta
