#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <cmpool/base/result.h>

#include <nlohmann/json.hpp>

namespace httplib {
class Client;
}

namespace cmpool::meta {

/// Calls of etcd's JSON gateway, at whichever endpoint answers.
///
///   Threads  one; stop() from any
///   Limits   kCallLimit a call and endpoint, each of which is tried, and the only one twice; but one only
///            after a call that had no answer. kAnswerBytesMax an answer
///   Errors   PeerDown: nobody is there, or there is no leader. Deadline. LeaseLost: no such lease.
///            NoCapacity: etcd is full. Denied. Corrupt: no answer that etcd gives
class EtcdClient {
public:
    using Json = nlohmann::json;
    static constexpr std::chrono::milliseconds kCallLimit{500};
    static constexpr std::size_t kAnswerBytesMax = std::size_t{16} << 20;

    explicit EtcdClient(std::vector<std::string> endpoints);
    ~EtcdClient();
    EtcdClient(const EtcdClient&) = delete;
    EtcdClient& operator=(const EtcdClient&) = delete;

    [[nodiscard]] Result<Json> call(const char* path, const Json& body);
    /// Gives each message of an answer that does not end to `each`, until that returns false, nothing has
    /// come for `silence`, or the connection breaks. The next call is made at the next endpoint.
    using Each = std::function<bool(const Json& message)>;
    void stream(const char* path, const Json& body, std::chrono::milliseconds silence, const Each& each);
    /// Ends what is under way, and all that comes.
    void stop();

private:
    using Receive = std::function<bool(std::string_view bytes)>;
    struct Answer {
        int status = 0;
        bool refused = false;  ///< by a limit of ours
    };

    [[nodiscard]] Result<Json> call_once(const char* path, const std::string& body);
    [[nodiscard]] Result<Answer> post(const char* path, std::string body, std::chrono::milliseconds silence,
                                      const Receive& receive);
    void rotate();

    std::vector<std::string> endpoints_;
    std::size_t at_ = 0;
    bool silent_ = true;  ///< the last call had no answer, or there was none
    std::atomic<bool> stopped_{false};
    std::mutex mutex_;  ///< of the client, which stop() looks at
    std::unique_ptr<httplib::Client> client_;
};

}  // namespace cmpool::meta
