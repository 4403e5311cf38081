// The module that Python loads: how C++ is called there. What it promises stands in cmpool/__init__.pyi.
#include "pool.h"

#include <pybind11/stl.h>

namespace cmpool::python {
namespace {

/// Made by Python's half of the module, which names them.
py::object error_type(cmpool_code code) {
    const auto module = py::module_::import("cmpool._errors");
    return module.attr("of_code")(code);
}

py::str text_of(const std::string& text) {
    return py::reinterpret_steal<py::str>(
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

void raise(const Failed& failed) {
    if (failed.code == CMPOOL_FAULT && failed.text == "out of memory") {
        PyErr_NoMemory();
        return;
    }
    PyErr_SetObject(error_type(failed.code).ptr(), text_of(failed.text).ptr());
}

py::object trouble_of(cmpool_code code, const std::string& text) {
    if (code == CMPOOL_OK) return py::none();
    return error_type(code)(text_of(text));
}

How how_of(std::optional<double> deadline) { return {.deadline = deadline}; }

void define_values(py::module_& module) {
    py::class_<Chain>(module, "Chain")
        .def("__len__", [](const Chain& chain) { return chain.keys.size(); })
        .def("__getitem__", [](const Chain& chain, std::ptrdiff_t index) {
            const auto size = static_cast<std::ptrdiff_t>(chain.keys.size());
            if (index < 0) index += size;
            if (index < 0 || index >= size) throw py::index_error("no such block");
            return py::bytes(reinterpret_cast<const char*>(chain.keys[static_cast<std::size_t>(index)].bytes),
                             sizeof(cmpool_digest));
        });
    py::class_<Report>(module, "Report")
        .def("__len__", [](const Report& report) { return report.blocks.size(); })
        .def("count", &Report::count, py::arg("outcome"))
        .def_property_readonly("outcomes",
                               [](const Report& report) {
                                   std::vector<std::uint32_t> all;
                                   all.reserve(report.blocks.size());
                                   for (const auto& block : report.blocks) all.push_back(block.outcome);
                                   return all;
                               })
        .def_property_readonly("bytes",
                               [](const Report& report) {
                                   std::vector<std::uint32_t> all;
                                   all.reserve(report.blocks.size());
                                   for (const auto& block : report.blocks) all.push_back(block.bytes);
                                   return all;
                               })
        .def_property_readonly("trouble",
                               [](const Report& report) { return trouble_of(report.code, report.trouble); });
    py::class_<View>(module, "_View", py::buffer_protocol()).def_buffer([](const View& view) {
        const auto bytes = static_cast<py::ssize_t>(view.bytes.bytes);
        return py::buffer_info(const_cast<void*>(view.bytes.data), 1, "B", 1, {bytes}, {py::ssize_t{1}},
                               true);
    });
    py::class_<Lease>(module, "Lease")
        .def_readonly("blocks", &Lease::blocks)
        .def("__len__", [](const Lease& lease) { return lease.blocks; })
        .def_property_readonly("held",
                               [](const Lease& lease) {
                                   const py::gil_scoped_release others;
                                   return cmpool_lease_held(lease.handle.get()) != 0;
                               })
        .def_property_readonly("trouble",
                               [](const Lease& lease) { return trouble_of(lease.code, lease.trouble); })
        .def("view", &Lease::view, py::arg("index"), py::arg("part") = 0)
        .def("release", [](Lease& lease) { lease = Lease{}; })
        .def("__enter__", [](py::object self) { return self; })
        .def("__exit__", [](Lease& lease, const py::args&) { lease = Lease{}; });
    py::class_<Memory>(module, "Memory").def("release", [](Memory& memory) { memory.handle.reset(); });
    py::class_<Call>(module, "Call")
        .def("done", &Call::done)
        .def("wait", &Call::wait)
        .def("result", &Call::result);
}

void define_pool(py::module_& module) {
    using py::arg;
    const auto none = py::none();
    py::class_<Pool>(module, "Pool")
        .def(py::init([](const std::string& uri, const std::string& model, const std::string& dtype,
                         const std::string& tenant, const std::string& revision, const std::string& layout,
                         const std::string& parallel, const std::string& engine, std::uint32_t block_tokens,
                         std::uint32_t group_blocks, const std::optional<py::bytes>& seal_key) {
                 const std::string_view key = seal_key ? std::string_view(*seal_key) : std::string_view{};
                 if (seal_key && key.size() != CMPOOL_SEAL_KEY_BYTES)
                     throw py::value_error("expected a seal key of 32 bytes, saw " +
                                           std::to_string(key.size()));
                 const auto* bytes = seal_key ? reinterpret_cast<const std::uint8_t*>(key.data()) : nullptr;
                 return std::make_unique<Pool>(uri, cmpool_namespace{.size = sizeof(cmpool_namespace),
                                                                     .tenant = tenant.c_str(),
                                                                     .model = model.c_str(),
                                                                     .revision = revision.c_str(),
                                                                     .dtype = dtype.c_str(),
                                                                     .layout = layout.c_str(),
                                                                     .parallel = parallel.c_str(),
                                                                     .engine = engine.c_str(),
                                                                     .block_tokens = block_tokens,
                                                                     .group_blocks = group_blocks,
                                                                     .seal_key = bytes});
             }),
             arg("uri"), py::kw_only(), arg("model"), arg("dtype"), arg("tenant") = "", arg("revision") = "",
             arg("layout") = "", arg("parallel") = "", arg("engine") = "", arg("block_tokens") = 0,
             arg("group_blocks") = 0, arg("seal_key") = none)
        .def("close", &Pool::close)
        .def("__enter__", [](py::object self) { return self; })
        .def("__exit__", [](Pool& pool, const py::args&) { pool.close(); })
        .def("chain", &Pool::chain, arg("tokens"))
        .def("key", &Pool::key, arg("own_key"))
        .def(
            "match",
            [](const Pool& pool, const py::object& keys, std::optional<double> deadline,
               std::uint32_t lease_ms, bool lease) {
                return pool.match(keys, {.deadline = deadline, .lease_ms = lease_ms, .lease = lease});
            },
            arg("keys"), py::kw_only(), arg("deadline") = none, arg("lease_ms") = 0, arg("lease") = true)
        .def(
            "get",
            [](const Pool& pool, const py::object& keys, const py::sequence& into, std::size_t first,
               bool verify, std::optional<double> deadline) {
                return pool.get(keys, into, first, {.deadline = deadline, .verify = verify});
            },
            arg("keys"), arg("into"), arg("first") = 0, py::kw_only(), arg("verify") = false,
            arg("deadline") = none)
        .def(
            "put",
            [](const Pool& pool, const py::object& keys, const py::sequence& blocks, std::size_t first,
               std::uint32_t cost_us, std::optional<double> deadline) {
                return pool.put(keys, blocks, first, cost_us, how_of(deadline));
            },
            arg("keys"), arg("blocks"), arg("first") = 0, py::kw_only(), arg("cost_us") = 0,
            arg("deadline") = none)
        .def(
            "exists",
            [](const Pool& pool, const py::object& keys, std::optional<double> deadline) {
                return pool.exists(keys, how_of(deadline));
            },
            arg("keys"), py::kw_only(), arg("deadline") = none)
        .def(
            "remove",
            [](const Pool& pool, const py::object& keys, std::optional<double> deadline) {
                return pool.remove(keys, how_of(deadline));
            },
            arg("keys"), py::kw_only(), arg("deadline") = none)
        .def(
            "start_match",
            [](const Pool& pool, const py::object& keys, std::optional<double> deadline,
               std::uint32_t lease_ms, bool lease) {
                return pool.start_match(keys, {.deadline = deadline, .lease_ms = lease_ms, .lease = lease});
            },
            arg("keys"), py::kw_only(), arg("deadline") = none, arg("lease_ms") = 0, arg("lease") = true)
        .def(
            "start_get",
            [](const Pool& pool, const py::object& keys, const py::sequence& into, std::size_t first,
               bool verify, std::optional<double> deadline) {
                return pool.start_get(keys, into, first, {.deadline = deadline, .verify = verify});
            },
            arg("keys"), arg("into"), arg("first") = 0, py::kw_only(), arg("verify") = false,
            arg("deadline") = none)
        .def(
            "start_put",
            [](const Pool& pool, const py::object& keys, const py::sequence& blocks, std::size_t first,
               std::uint32_t cost_us, std::optional<double> deadline) {
                return pool.start_put(keys, blocks, first, cost_us, how_of(deadline));
            },
            arg("keys"), arg("blocks"), arg("first") = 0, py::kw_only(), arg("cost_us") = 0,
            arg("deadline") = none)
        .def(
            "start_exists",
            [](const Pool& pool, const py::object& keys, std::optional<double> deadline) {
                return pool.start_exists(keys, how_of(deadline));
            },
            arg("keys"), py::kw_only(), arg("deadline") = none)
        .def(
            "start_remove",
            [](const Pool& pool, const py::object& keys, std::optional<double> deadline) {
                return pool.start_remove(keys, how_of(deadline));
            },
            arg("keys"), py::kw_only(), arg("deadline") = none)
        .def("register", &Pool::register_memory, arg("memory"))
        .def(
            "stats",
            [](const Pool& pool, std::optional<double> deadline) { return pool.stats(how_of(deadline)); },
            py::kw_only(), arg("deadline") = none)
        .def("status", &Pool::status)
        .def("fileno", &Pool::fileno)
        .def("progress", &Pool::progress);
}

}  // namespace
}  // namespace cmpool::python

PYBIND11_MODULE(_cmpool, module) {
    using namespace cmpool::python;
    py::register_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(std::move(thrown));
        } catch (const Failed& failed) {
            raise(failed);
        } catch (const py::cast_error& wrong) {
            PyErr_SetString(PyExc_TypeError, wrong.what());
        }
    });
    module.attr("version") = cmpool_version();
    define_values(module);
    define_pool(module);
}
