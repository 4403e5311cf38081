#include <cmpool/pool/eviction.h>

namespace cmpool::pool {

void Lru::insert(GroupId group, GroupId parent) {
    AllLinks& links = *links_;
    while (group >= links.size()) links.grow();
    const GroupId colder = parent == kNoGroup ? warmest_ : links[parent].colder;
    links[group] = {.colder = colder, .warmer = parent};
    (colder == kNoGroup ? coldest_ : links[colder].warmer) = group;
    (parent == kNoGroup ? warmest_ : links[parent].colder) = group;
}

void Lru::touch(GroupId group) {
    if (group == warmest_) return;
    erase(group);
    insert(group, kNoGroup);
}

void Lru::erase(GroupId group) {
    AllLinks& all = *links_;
    const Links links = all[group];
    (links.colder == kNoGroup ? coldest_ : all[links.colder].warmer) = links.warmer;
    (links.warmer == kNoGroup ? warmest_ : all[links.warmer].colder) = links.colder;
}

}  // namespace cmpool::pool
