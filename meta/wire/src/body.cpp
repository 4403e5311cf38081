#include <cmpool/wire/messages.h>

namespace cmpool::wire {

Body::Body() = default;
Body::Body(const Body& other) = default;
Body::Body(Body&& other) noexcept = default;
Body& Body::operator=(const Body& other) = default;
Body& Body::operator=(Body&& other) noexcept = default;
Body::~Body() = default;

template <class T>
Body::Body(T message) : AnyBody(std::move(message)) {}

template Body::Body(Hello);
template Body::Body(Welcome);
template Body::Body(OpenNamespace);
template Body::Body(NamespaceOpened);
template Body::Body(Attach);
template Body::Body(Attached);
template Body::Body(Match);
template Body::Body(Matched);
template Body::Body(Release);
template Body::Body(Exists);
template Body::Body(Get);
template Body::Body(Remove);
template Body::Body(Outcomes);
template Body::Body(Put);
template Body::Body(StatsRequest);
template Body::Body(Stats);
template Body::Body(List);
template Body::Body(Listed);
template Body::Body(Failed);
template Body::Body(Members);
template Body::Body(ViewRequest);
template Body::Body(Join);
template Body::Body(Renew);
template Body::Body(Leave);
template Body::Body(Lease);
template Body::Body(Resolve);
template Body::Body(Resolved);
template Body::Body(ListNamespaces);
template Body::Body(ChangeNamespace);
template Body::Body(Namespaces);
template Body::Body(ChangeMember);
template Body::Body(BrokenSeals);
template Body::Body(Sums);

}  // namespace cmpool::wire
