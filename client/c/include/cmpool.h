/// cmpool in C: a pool of memory for KV-cache and model blocks, as an engine sees it.
///
/// A pool handle is one namespace of a pool. Keys and bytes go in, hits and misses come out. Each call has a
/// deadline, and each failure of the pool is a miss: who looks at outcomes only is right, merely blind.
///
///   Codes     CMPOOL_OK is 0. Each call also takes a cmpool_error, or NULL, that says why in a sentence.
///             A batch fills its results whatever it returns: its code says why blocks are missing, where
///             there is more to say than "miss"
///   Growth    structures that may grow begin with `size`, which the caller sets to sizeof. A library that is
///             newer takes what is missing as 0; one that is older refuses what it does not know and is not 0
///             (CMPOOL_UNSUPPORTED). In an array the first element's `size` is that of all
///   Lifetime  what a call names is copied when it starts, but for the bytes of blocks: these stay where they
///             are until the call has returned, or, of one that was started, until it is done
///   Threads   any: calls on one pool, its leases and its calls take turns, and waiting for one's turn counts
///             towards the deadline. Threads that are to work side by side open a pool each. A fork()ed child
///             uses none of its parent's handles
///   Errors    no exception leaves this library; one that occurs inside is CMPOOL_FAULT
#ifndef CMPOOL_H
#define CMPOOL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CMPOOL_API __attribute__((visibility("default")))
#else
#define CMPOOL_API
#endif

// ---- limits ----

#define CMPOOL_BATCH_MAX 4096u                         ///< blocks of one call; of a match, blocks x parts
#define CMPOOL_BLOCK_BYTES_MAX (64u << 20)             ///< of one block
#define CMPOOL_PIECES_MAX (1u << 20)                   ///< pieces of memory of one call
#define CMPOOL_TOKENS_MAX (1u << 26)                   ///< of one cmpool_chain()
#define CMPOOL_CALLS_MAX 1024u                         ///< started and not finished, of one pool
#define CMPOOL_PUTS_MAX 3u                             ///< of them, puts that are not done yet
#define CMPOOL_DEADLINE_NS_MAX INT64_C(3600000000000)  ///< of one call: an hour

// ---- codes ----

/// Each asks for another action.
typedef int32_t cmpool_code;
enum {
    CMPOOL_OK = 0,
    CMPOOL_AGAIN = 1,        ///< too much is on its way: finish some of it first; or: not done yet
    CMPOOL_NO_CAPACITY = 2,  ///< nothing is evictable: back off, then retry
    CMPOOL_DEADLINE = 3,     ///< time is up: treat as a miss
    CMPOOL_LEASE_LOST = 4,   ///< the bytes may be reused by now: drop the view
    CMPOOL_PEER_DOWN = 5,    ///< nobody answers there: treat as a miss
    CMPOOL_CORRUPT = 6,      ///< checksum or digest mismatch
    CMPOOL_DENIED = 7,       ///< wrong key or tenant: do not retry
    CMPOOL_MISMATCH = 8,     ///< another fingerprint or protocol version: show the text to a person
    CMPOOL_UNSUPPORTED = 9,  ///< not here: on another host, by this library
    CMPOOL_INVALID = 10,     ///< the request itself is wrong: retrying cannot help
    CMPOOL_FAULT = 100       ///< an exception inside: out of memory, or a mistake of ours
};

/// Why a call did not return CMPOOL_OK.
typedef struct cmpool_error {
    size_t size;
    cmpool_code code;
    char text[1012];  ///< a sentence for people, cut where it is longer; empty when all is well
} cmpool_error;

/// The code's name, such as "deadline"; "unknown" for a number that is none. It lives for ever.
CMPOOL_API const char* cmpool_code_name(cmpool_code code);
/// Of the library that runs, such as "0.1.0".
CMPOOL_API const char* cmpool_version(void);

// ---- words ----

/// A namespace of a pool, and the connection to it.
typedef struct cmpool_pool cmpool_pool;
/// A run of present blocks, and the right to find them there until it ends.
typedef struct cmpool_lease cmpool_lease;
/// A call that is on its way.
typedef struct cmpool_call cmpool_call;
/// Memory that need not be told of at each call.
typedef struct cmpool_memory cmpool_memory;
/// What a pool says of itself, by name.
typedef struct cmpool_stats cmpool_stats;

// These three never grow.

/// A block's key: keyed BLAKE2b-256.
typedef struct cmpool_digest {
    uint8_t bytes[32];
} cmpool_digest;
/// Memory to be filled, in bytes.
typedef struct cmpool_span {
    void* data;
    size_t bytes;
} cmpool_span;
/// Memory to be read, in bytes.
typedef struct cmpool_view {
    const void* data;
    size_t bytes;
} cmpool_view;

/// Everything that decides a block's bytes: two engines share blocks only when all of it is equal. NULL is
/// an empty text.
typedef struct cmpool_namespace {
    size_t size;
    const char* tenant;     ///< empty: "default", or the URI's
    const char* model;      ///< such as "meta-llama/Llama-3-8B"; required
    const char* revision;   ///< of the weights
    const char* dtype;      ///< such as "bf16"; required
    const char* layout;     ///< axes of a block, and what else shapes it
    const char* parallel;   ///< tensor and pipeline shape, such as "tp1"
    const char* engine;     ///< name and version of what computes the bytes
    uint32_t block_tokens;  ///< 0: opaque keys, no chains
    uint32_t group_blocks;  ///< blocks of a chain that lie together; 0: 64
    /// 32 bytes of chance that no server is told, read while it is opened: blocks are encrypted before they
    /// leave this process, and what was not put with the same key is a miss. NULL: they are not, unless the
    /// URI says seal_key_file=PATH. Views are CMPOOL_UNSUPPORTED there.
    const uint8_t* seal_key;
} cmpool_namespace;

#define CMPOOL_SEAL_KEY_BYTES 32

/// What a call does otherwise than usual. NULL where one is taken: all 0.
typedef struct cmpool_options {
    size_t size;
    int64_t deadline_ns;  ///< from now; 0: the URI's
    uint32_t lease_ms;    ///< match: the longest lease that is asked for; 0: 2000
    uint32_t parts;       ///< match: of how many parts a block consists, see cmpool_part_key(); 0: 1
    uint32_t verify;      ///< get: not 0: compare checksums here, after the bytes have landed
    uint32_t no_lease;    ///< match: not 0: only look
} cmpool_options;

/// A block to read, and where its bytes go, in order.
typedef struct cmpool_get_item {
    size_t size;
    cmpool_digest key;
    const cmpool_span* into;
    size_t into_count;
    uint64_t group;   ///< as it was put
    uint32_t offset;  ///< with `length`: which of its bytes; both 0: all
    uint32_t length;
} cmpool_get_item;

/// A block to write, and where its bytes lie, in order.
typedef struct cmpool_put_item {
    size_t size;
    cmpool_digest key;
    cmpool_digest parent;  ///< the block before it; all 0: it is in no chain, or begins one
    const cmpool_view* from;
    size_t from_count;
    uint64_t group;     ///< cmpool_group() of its chain; 0: the key's own
    uint32_t position;  ///< in its chain
    uint32_t cost_us;   ///< what computing it again takes
} cmpool_put_item;

enum {
    CMPOOL_MISS = 0,       ///< get, exists, remove: not there, or no answer in time
    CMPOOL_HIT = 1,        ///< get: the memory holds exactly what was put; exists, remove: it was there
    CMPOOL_STORED = 2,     ///< put: it can be found now
    CMPOOL_PRESENT = 3,    ///< put: it could be found already
    CMPOOL_DROPPED = 4,    ///< put: not stored; nothing is lost but the work of computing it again
    CMPOOL_TOO_SMALL = 5,  ///< get: there is less room than `bytes`
    CMPOOL_OUTSIDE = 6     ///< get: the range is none of the block, which has `bytes`
};

/// What became of one block of a batch. On anything but CMPOOL_HIT a get's memory holds nothing meaningful.
/// Of an array that a call fills only the first element's `size` is set by the caller.
typedef struct cmpool_result {
    size_t size;
    uint32_t outcome;
    uint32_t bytes;   ///< of the block, where known
    uint32_t copies;  ///< put: members that hold it now
    uint32_t spare;   ///< 0
} cmpool_result;

/// How things stand, for people. Texts end with 0, and are cut where they are longer.
typedef struct cmpool_status {
    size_t size;
    uint32_t ready;  ///< not 0: calls reach a pool
    uint32_t shards;
    uint32_t shards_mapped;  ///< whose memory is read without a message
    uint32_t members;        ///< that own blocks
    uint32_t members_ready;  ///< of them, whom we are connected to
    uint32_t spare;          ///< 0
    uint64_t epoch;          ///< of the newest view of members
    char transport[16];      ///< "shm" or "tcp"
    char kv[16];             ///< what blocks are read over
    char version[32];        ///< of the pool
    char node[128];
    uint64_t broken_seals;  ///< blocks of a sealed namespace that did not open: misses
} cmpool_status;

typedef struct cmpool_stat {
    size_t size;
    const char* name;  ///< lives as long as the cmpool_stats
    uint64_t value;
} cmpool_stat;

// ---- a pool ----

/// Connects to `uri` and opens the namespace, within the URI's deadline:
/// cmpool://HOST:PORT[,HOST:PORT...]?transport=shm|tcp&deadline_ms=N&tenant=NAME&key=SECRET&seal_key_file=PATH
/// A pool that does not answer is no error: calls miss, and it is tried again on the side.
/// Errors: INVALID for the URI or the namespace; DENIED and MISMATCH when the pool refuses. Then *pool is
/// NULL.
CMPOOL_API cmpool_code cmpool_open(const char* uri, const cmpool_namespace* space, cmpool_pool** pool,
                                   cmpool_error* error);
/// Ends what is on its way: such calls are done, with misses. Leases and calls stay valid handles, which
/// somebody must still give back. No other thread may be in a call on the pool. NULL is fine.
CMPOOL_API void cmpool_close(cmpool_pool* pool);

/// OK when calls reach a pool; else what keeps them from it. `status` is filled in either case.
CMPOOL_API cmpool_code cmpool_read_status(cmpool_pool* pool, cmpool_status* status, cmpool_error* error);

/// Asks the pool for its statistics.
CMPOOL_API cmpool_code cmpool_read_stats(cmpool_pool* pool, const cmpool_options* options,
                                         cmpool_stats** stats, cmpool_error* error);
CMPOOL_API size_t cmpool_stats_count(const cmpool_stats* stats);
/// Errors: INVALID for an index that is not below the count.
CMPOOL_API cmpool_code cmpool_stats_at(const cmpool_stats* stats, size_t index, cmpool_stat* stat);
CMPOOL_API void cmpool_stats_free(cmpool_stats* stats);

// ---- keys ----
// Made with a secret of the namespace, so there are none before it has been opened once: PEER_DOWN until
// then.

/// One key per full block of `block_tokens` tokens, root first, into `keys`, which has room for `room`;
/// *count is how many there are. Errors: INVALID where there is too little room; then none is written.
CMPOOL_API cmpool_code cmpool_chain(cmpool_pool* pool, const uint32_t* tokens, size_t token_count,
                                    cmpool_digest* keys, size_t room, size_t* count, cmpool_error* error);
/// The key for an engine's own key bytes.
CMPOOL_API cmpool_code cmpool_key(cmpool_pool* pool, const void* own_key, size_t bytes, cmpool_digest* key,
                                  cmpool_error* error);
/// What places the block at `position` of a chain, for get and put. `chain` has all keys up to that one.
/// 0 where an argument is wrong.
CMPOOL_API uint64_t cmpool_group(const cmpool_pool* pool, const cmpool_digest* chain, uint32_t position);
/// The key of one of a block's parts, such as a rank's heads.
CMPOOL_API cmpool_code cmpool_part_key(const cmpool_digest* block, uint32_t part, uint32_t parts,
                                       cmpool_digest* key);

// ---- blocking calls: each returns by its deadline ----

/// The longest run of present blocks from the start of `chain`, and a lease on them: while that lives, a get
/// of these blocks hits. `lease` may be NULL: then the run is given back at once. A longer chain than
/// CMPOOL_BATCH_MAX is cut.
CMPOOL_API cmpool_code cmpool_match(cmpool_pool* pool, const cmpool_digest* chain, size_t count,
                                    const cmpool_options* options, cmpool_lease** lease, size_t* blocks,
                                    cmpool_error* error);
/// `results` has as many elements as `items`, also below. That of a put and a remove may be NULL.
CMPOOL_API cmpool_code cmpool_get(cmpool_pool* pool, const cmpool_get_item* items, size_t count,
                                  const cmpool_options* options, cmpool_result* results, cmpool_error* error);
CMPOOL_API cmpool_code cmpool_put(cmpool_pool* pool, const cmpool_put_item* items, size_t count,
                                  const cmpool_options* options, cmpool_result* results, cmpool_error* error);
CMPOOL_API cmpool_code cmpool_exists(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                                     const cmpool_options* options, cmpool_result* results,
                                     cmpool_error* error);
CMPOOL_API cmpool_code cmpool_remove(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                                     const cmpool_options* options, cmpool_result* results,
                                     cmpool_error* error);

// ---- leases ----

/// How many blocks, from the front of the chain. 0 for NULL.
CMPOOL_API size_t cmpool_lease_blocks(const cmpool_lease* lease);
/// 0 where the pool gave no lease, or for NULL: then a later miss is legal.
CMPOOL_API int cmpool_lease_held(const cmpool_lease* lease);
/// The bytes of block `index` where they lie, without a copy, to be read until the lease is released; of one
/// in parts, those of `part`. They stay, also when the pool's process ends.
/// Errors: UNSUPPORTED where they are not in this host's memory; LEASE_LOST; INVALID.
CMPOOL_API cmpool_code cmpool_lease_view(const cmpool_lease* lease, size_t index, uint32_t part,
                                         cmpool_view* view, cmpool_error* error);
/// Gives it back; its views end here. NULL is fine. It may outlive the pool.
/// What is not mapped the pool lets go of with the next call, or when the lease runs out.
CMPOOL_API void cmpool_release(cmpool_lease* lease);

// ---- memory ----

/// Optional: plain memory works too. What lies in registered memory is found by the pool's host, or landed
/// in, without telling it at each call. An engine registers its paged KV cache once. It outlives the handle.
CMPOOL_API cmpool_code cmpool_register(cmpool_pool* pool, void* data, size_t bytes, cmpool_memory** memory,
                                       cmpool_error* error);
CMPOOL_API void cmpool_unregister(cmpool_memory* memory);

// ---- asynchronous calls ----
// Each start is followed by one finish or drop. A call moves while cmpool_progress(), or any other call on
// the pool, runs. A call that could not be started leaves *call NULL.

CMPOOL_API cmpool_code cmpool_start_match(cmpool_pool* pool, const cmpool_digest* chain, size_t count,
                                          const cmpool_options* options, cmpool_call** call,
                                          cmpool_error* error);
CMPOOL_API cmpool_code cmpool_start_get(cmpool_pool* pool, const cmpool_get_item* items, size_t count,
                                        const cmpool_options* options, cmpool_call** call,
                                        cmpool_error* error);
CMPOOL_API cmpool_code cmpool_start_put(cmpool_pool* pool, const cmpool_put_item* items, size_t count,
                                        const cmpool_options* options, cmpool_call** call,
                                        cmpool_error* error);
CMPOOL_API cmpool_code cmpool_start_exists(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                                           const cmpool_options* options, cmpool_call** call,
                                           cmpool_error* error);
CMPOOL_API cmpool_code cmpool_start_remove(cmpool_pool* pool, const cmpool_digest* keys, size_t count,
                                           const cmpool_options* options, cmpool_call** call,
                                           cmpool_error* error);

/// Readable when cmpool_progress() has something to do, deadlines included. It belongs to the pool: watch it,
/// never read or close it.
CMPOOL_API cmpool_code cmpool_event_fd(cmpool_pool* pool, int* fd, cmpool_error* error);
/// Moves all that is on its way; never waits.
CMPOOL_API cmpool_code cmpool_progress(cmpool_pool* pool, cmpool_error* error);
/// Not 0 when the call can be finished, and none of its memory is touched any more.
CMPOOL_API int cmpool_call_done(const cmpool_call* call);
/// Returns when it is done: by its deadline at the latest.
CMPOOL_API cmpool_code cmpool_wait(cmpool_call* call, cmpool_error* error);
/// Takes what became of it, as the blocking call would have, and ends `call`. `results` has `count` elements,
/// as many as the call; NULL where nobody looks.
/// Errors: AGAIN before it is done, INVALID for another kind or count: then `call` lives on. Any other code
/// is the call's own.
CMPOOL_API cmpool_code cmpool_finish(cmpool_call* call, cmpool_result* results, size_t count,
                                     cmpool_error* error);
/// The same of a match.
CMPOOL_API cmpool_code cmpool_finish_match(cmpool_call* call, cmpool_lease** lease, size_t* blocks,
                                           cmpool_error* error);
/// Waits until it is done, so that its memory is the caller's again, and forgets it. NULL is fine.
CMPOOL_API void cmpool_drop(cmpool_call* call);

#ifdef __cplusplus
}
#endif

#endif
