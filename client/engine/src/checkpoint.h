#pragma once

#include <map>
#include <string>
#include <string_view>

#include <cmpool/base/result.h>

namespace cmpool::engine {

/// Which file of its folder holds a tensor: the weight_map of a model.safetensors.index.json.
///
///   Limits  Model::kShardsMax different files
///   Errors  Invalid for what is no such index, or names a file outside of the folder
using ShardIndex = std::map<std::string, std::string, std::less<>>;

[[nodiscard]] Result<ShardIndex> parse_shard_index(std::string_view text);

}  // namespace cmpool::engine
