// Feeds the empty input and every file of a kept corpus to a fuzzer's entry point: what libFuzzer
// does with the corpus before it starts to mutate, for compilers that have no libFuzzer.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

int replay(const std::filesystem::path& corpus) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(corpus)) {
        if (entry.is_regular_file()) files.push_back(entry.path());
    }
    if (files.empty()) {
        std::fprintf(stderr, "no input in %s: keep at least one there\n", corpus.c_str());
        return 1;
    }
    std::sort(files.begin(), files.end());

    LLVMFuzzerTestOneInput(nullptr, 0);
    for (const auto& file : files) {
        std::printf("replaying %s\n", file.c_str());
        std::fflush(stdout);  // the last line before a crash names the input
        std::ifstream stream(file, std::ios::binary);
        const std::vector<char> input{std::istreambuf_iterator<char>(stream), {}};
        if (stream.bad() || !stream.is_open()) {
            std::fprintf(stderr, "cannot read %s\n", file.c_str());
            return 1;
        }
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    }
    std::printf("%zu inputs and the empty one\n", files.size());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
        return 2;
    }
    try {
        return replay(argv[1]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
