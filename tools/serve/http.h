#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/engine/tokenizer.h>
#include <cmpool/loop/router.h>

namespace cmpool::serve {

struct FrontOptions {
    std::string model;                                ///< the name that requests use
    std::uint32_t context = 0;                        ///< in tokens
    std::vector<std::uint32_t> stop_tokens;           ///< of the model
    std::size_t requests_max = 64;                    ///< at once; one more is told to come back later
    Nanos request_limit = std::chrono::seconds(600);  ///< from its arrival to its last token
};

inline constexpr std::size_t kBodyBytesMax = 8 * 1024 * 1024;

/// HTTP in front of a Router: /v1/completions, /v1/models, /health, /metrics.
///
///   Lifetime  the router outlives it
///   Threads   run() serves on threads of its own and returns after stop(), which any thread may call
///   Limits    kBodyBytesMax a body; requests_max requests at once
///   Source    OpenAI's API reference: completions, errors; Prometheus text format 0.0.4
class Front {
public:
    Front(loop::Router& router, engine::Tokenizer tokenizer, FrontOptions options);
    ~Front();

    /// Takes HOST:PORT; port 0 picks one. Returns what was taken. Errors: Invalid; PeerDown when it is in
    /// use.
    [[nodiscard]] Result<std::string> bind(const std::string& address);
    void run();
    void stop();

private:
    class Inside;
    std::unique_ptr<Inside> inside_;
};

}  // namespace cmpool::serve
