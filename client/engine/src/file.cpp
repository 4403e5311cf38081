#include "file.h"

#include <cstring>
#include <fstream>
#include <system_error>

#include <cmpool/base/units.h>

namespace cmpool::engine {

Result<std::vector<std::byte>> read_file(const std::filesystem::path& path, std::uint64_t bytes_max) {
    std::error_code error;
    const std::uint64_t bytes = std::filesystem::file_size(path, error);
    if (error) return fail(Errc::Invalid, "cannot read {}: {}", path.string(), error.message());
    if (bytes > bytes_max) {
        return fail(Errc::Invalid, "{}: expected a file of at most {}, saw {}", path.string(),
                    format_bytes(bytes_max), format_bytes(bytes));
    }
    std::vector<std::byte> content(bytes);
    std::ifstream in(path, std::ios::binary);
    in.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(bytes));
    if (!in) {
        return fail(Errc::Invalid, "cannot read {}: expected {} bytes, saw {}", path.string(), bytes,
                    in.gcount());
    }
    return content;
}

}  // namespace cmpool::engine
