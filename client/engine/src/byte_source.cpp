#include "byte_source.h"

#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

namespace cmpool::engine {

namespace {

class FileSource final : public ByteSource {
public:
    FileSource(std::string name, std::ifstream in, std::uint64_t size)
        : name_(std::move(name)), in_(std::move(in)), size_(size) {}

    const std::string& name() const noexcept override { return name_; }
    std::uint64_t size() const noexcept override { return size_; }

    Result<void> read(std::uint64_t offset, MutableBytes out) override {
        in_.clear();
        in_.seekg(static_cast<std::streamoff>(offset));
        in_.read(reinterpret_cast<char*>(out.data()), static_cast<std::streamsize>(out.size()));
        if (in_) return {};
        return fail(Errc::Invalid, "{}: expected {} bytes at offset {}, saw {}", name_, out.size(), offset,
                    in_.gcount());
    }

private:
    std::string name_;
    std::ifstream in_;
    std::uint64_t size_;
};

class MemorySource final : public ByteSource {
public:
    MemorySource(std::string name, Bytes bytes) : name_(std::move(name)), bytes_(bytes) {}

    const std::string& name() const noexcept override { return name_; }
    std::uint64_t size() const noexcept override { return bytes_.size(); }

    Result<void> read(std::uint64_t offset, MutableBytes out) override {
        if (offset > bytes_.size() || bytes_.size() - offset < out.size()) {
            return fail(Errc::Invalid, "{}: expected {} bytes at offset {}, saw {} in all", name_, out.size(),
                        offset, bytes_.size());
        }
        if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
        return {};
    }

private:
    std::string name_;
    Bytes bytes_;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> open_file(const std::filesystem::path& path) {
    std::error_code error;
    const std::uint64_t size = std::filesystem::file_size(path, error);
    if (error) return fail(Errc::Invalid, "cannot read {}: {}", path.string(), error.message());
    std::ifstream in(path, std::ios::binary);
    if (!in) return fail(Errc::Invalid, "cannot read {}", path.string());
    return std::make_unique<FileSource>(path.string(), std::move(in), size);
}

std::unique_ptr<ByteSource> view_bytes(std::string name, Bytes bytes) {
    return std::make_unique<MemorySource>(std::move(name), bytes);
}

}  // namespace cmpool::engine
