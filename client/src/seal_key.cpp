#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include <cmpool/base/bytes.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/client/seal_key.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace cmpool::client {

Result<SealKey> read_seal_key(const std::string& path) {
    // Without waiting: somebody may have named a pipe.
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat seen {};
    if (!file || ::fstat(file.get(), &seen) != 0)
        return fail(Errc::Invalid, "expected a file with a seal key, saw {}: {}", path, std::strerror(errno));
    if (!S_ISREG(seen.st_mode))
        return fail(Errc::Invalid, "expected a file with a seal key, saw {}, which is no plain file", path);
    constexpr unsigned kOthers = S_IRWXG | S_IRWXO;
    if ((seen.st_mode & kOthers) != 0)
        return fail(Errc::Denied,
                    "expected a seal key that only its owner may read (mode 600), saw mode {:o} of {}",
                    seen.st_mode & 07777U, path);
    if (seen.st_uid != ::geteuid() && seen.st_uid != 0)
        return fail(Errc::Denied, "expected a seal key of user {} or root, saw {} of user {}", ::geteuid(),
                    path, seen.st_uid);

    SealKey key;
    std::array<char, 2 * sizeof key + 3> text{};
    std::size_t length = 0;
    for (ssize_t got = 1; got > 0 && length < text.size();
         length += static_cast<std::size_t>(got > 0 ? got : 0))
        got = ::read(file.get(), text.data() + length, text.size() - length);
    std::string_view content(text.data(), length);
    if (content.size() == key.size()) {
        std::memcpy(key.data(), content.data(), key.size());
        return key;
    }
    for (const char end : {'\n', '\r'}) {
        if (content.ends_with(end)) content.remove_suffix(1);
    }
    if (content.size() == 2 * key.size() && from_hex(content, key)) return key;
    return fail(Errc::Invalid, "expected a seal key of {} bytes or {} hexadecimal digits, saw neither in {}",
                key.size(), 2 * key.size(), path);
}

}  // namespace cmpool::client
