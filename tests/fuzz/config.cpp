// cmpoold's configuration file: whatever it says, the daemon starts with options in their bounds, or says why
// not and has an exit code.
#include "options.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#include <cmpool/base/assert.h>
#include <cmpool/pool/server.h>
#include <cmpool/wire/messages.h>

#include <sys/mman.h>
#include <unistd.h>

using namespace cmpool;

namespace {

// What the daemon says about each input is not worth reading.
class Silence {
public:
    Silence() { std::swap(stderr, null_), std::swap(stdout, null_out_); }
    ~Silence() { std::swap(stderr, null_), std::swap(stdout, null_out_); }
    Silence(const Silence&) = delete;
    Silence& operator=(const Silence&) = delete;

private:
    static inline std::FILE* null_ = std::fopen("/dev/null", "w");
    static inline std::FILE* null_out_ = std::fopen("/dev/null", "w");
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const int file = ::memfd_create("config", MFD_CLOEXEC);
    CMPOOL_ASSERT(file >= 0 && ::ftruncate(file, 0) == 0);
    CMPOOL_ASSERT(::pwrite(file, data, size, 0) == static_cast<ssize_t>(size));
    std::array<std::string, 3> words{"cmpoold", "--config", "/proc/self/fd/" + std::to_string(file)};
    std::array<char*, 3> arguments{words[0].data(), words[1].data(), words[2].data()};

    const Silence silence;
    const auto parsed = daemon::parse_options(static_cast<int>(arguments.size()), arguments.data());
    if (!parsed.options) return 0;
    const auto& options = *parsed.options;
    CMPOOL_ASSERT(parsed.exit_code == 0);
    CMPOOL_ASSERT(options.capacity_bytes == 0 || options.capacity_bytes >= pool::kCapacityMin);
    CMPOOL_ASSERT(options.segment_bytes == 0 || options.segment_bytes >= pool::kCapacityMin);
    CMPOOL_ASSERT(options.shards >= 1 && options.shards <= wire::kShardsMax);
    return 0;
}
