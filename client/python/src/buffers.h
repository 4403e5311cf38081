#pragma once

#include <cstddef>
#include <vector>

#include <cmpool.h>
#include <pybind11/pybind11.h>

namespace cmpool::python {

namespace py = pybind11;

/// Other objects' memory, which stays where it is while this lives: a bytearray cannot grow meanwhile.
///
///   Threads  the interpreter's lock is held where one is made, added to or destroyed
///   Errors   what the object itself raises: TypeError, BufferError, ValueError
class Buffers {
public:
    Buffers() = default;
    Buffers(const Buffers&) = delete;
    Buffers& operator=(const Buffers&) = delete;
    Buffers(Buffers&& other) noexcept : held_(std::move(other.held_)) { other.held_.clear(); }
    Buffers& operator=(Buffers&&) = delete;
    ~Buffers();

    /// The bytes of one object that has the buffer protocol, without a copy; they lie in one row.
    const Py_buffer& add(py::handle object, bool writable);

private:
    std::vector<Py_buffer*> held_;
};

/// The items of a batch, and all that they point to.
struct Batch {
    Buffers buffers;
    std::vector<cmpool_span> into;
    std::vector<cmpool_view> from;
    std::vector<std::size_t> ends;  ///< of each item's pieces
    std::vector<cmpool_get_item> gets;
    std::vector<cmpool_put_item> puts;

    /// Each of `blocks` is a buffer, or a list or tuple of them.
    void read(const py::sequence& blocks, bool writable);
};

}  // namespace cmpool::python
