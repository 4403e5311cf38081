#include "buffers.h"

#include <memory>

namespace cmpool::python {

Buffers::~Buffers() {
    for (auto* held : held_) {
        PyBuffer_Release(held);
        delete held;
    }
}

const Py_buffer& Buffers::add(py::handle object, bool writable) {
    auto view = std::make_unique<Py_buffer>();
    held_.reserve(held_.size() + 1);
    if (PyObject_GetBuffer(object.ptr(), view.get(), writable ? PyBUF_CONTIG : PyBUF_CONTIG_RO) != 0)
        throw py::error_already_set();
    held_.push_back(view.release());
    return *held_.back();
}

void Batch::read(const py::sequence& blocks, bool writable) {
    const auto add = [&](py::handle object) {
        const auto& view = buffers.add(object, writable);
        const auto bytes = static_cast<std::size_t>(view.len);
        writable ? void(into.push_back({view.buf, bytes})) : from.push_back({view.buf, bytes});
    };
    for (const auto& block : blocks) {
        if (py::isinstance<py::list>(block) || py::isinstance<py::tuple>(block)) {
            for (const auto& piece : block) add(piece);
        } else {
            add(block);
        }
        ends.push_back(into.size() + from.size());
    }
}

}  // namespace cmpool::python
