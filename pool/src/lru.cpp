#include <cmpool/pool/eviction.h>

namespace cmpool::pool {

void Lru::insert(GroupId group, GroupId parent) {
    if (group >= links_.size()) links_.resize(group + 1);
    const GroupId colder = parent == kNoGroup ? warmest_ : links_[parent].colder;
    links_[group] = {.colder = colder, .warmer = parent};
    (colder == kNoGroup ? coldest_ : links_[colder].warmer) = group;
    (parent == kNoGroup ? warmest_ : links_[parent].colder) = group;
}

void Lru::touch(GroupId group) {
    if (group == warmest_) return;
    erase(group);
    insert(group, kNoGroup);
}

void Lru::erase(GroupId group) {
    const Links links = links_[group];
    (links.colder == kNoGroup ? coldest_ : links_[links.colder].warmer) = links.warmer;
    (links.warmer == kNoGroup ? warmest_ : links_[links.warmer].colder) = links.colder;
}

}  // namespace cmpool::pool
