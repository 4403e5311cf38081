# Where things go when they are installed, and how they are packed.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
# Programs say nothing, and belong to this one.
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME cmpool)

# find_package(cmpool): target cmpool::cmpool.
set(cmake_folder ${CMAKE_INSTALL_LIBDIR}/cmake/cmpool)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/cmpoolConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/cmpoolConfig.cmake ${CMAKE_BINARY_DIR}/cmpoolConfigVersion.cmake
    DESTINATION ${cmake_folder} COMPONENT libcmpool-dev)
install(EXPORT cmpool NAMESPACE cmpool:: FILE cmpoolTargets.cmake DESTINATION ${cmake_folder}
    COMPONENT libcmpool-dev)

# pkg-config --cflags --libs cmpool: found from where the file lies, so that a prefix may move.
file(RELATIVE_PATH prefix_from_pkgconfig /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/cmpool.pc.in ${CMAKE_BINARY_DIR}/cmpool.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/cmpool.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
    COMPONENT libcmpool-dev)

# The service, which systemd starts as a user of its own.
set(packaging ${CMAKE_CURRENT_LIST_DIR}/../package)
install(FILES ${packaging}/cmpoold.service DESTINATION lib/systemd/system COMPONENT cmpool)
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/cmpool RENAME copyright COMPONENT cmpool)
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libcmpool0 RENAME copyright
    COMPONENT libcmpool0)
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libcmpool-dev RENAME copyright
    COMPONENT libcmpool-dev)

# cpack -G DEB: a package a component.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME cmpool)
set(CPACK_PACKAGE_VENDOR cmpool)
set(CPACK_PACKAGE_CONTACT "cmpool maintainers <cmpool@localhost>")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
    WORLD_READ WORLD_EXECUTE)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_COMPONENTS_ALL cmpool libcmpool0 libcmpool-dev)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_CMPOOL_PACKAGE_NAME cmpool)
set(CPACK_DEBIAN_CMPOOL_PACKAGE_SECTION net)
set(CPACK_DEBIAN_CMPOOL_DESCRIPTION "memory pool for LLM serving: server and tools
 cmpoold keeps KV-cache and model blocks in this host's memory for every engine
 that asks; cmpool-cli looks into it.")
set(CPACK_DEBIAN_CMPOOL_PACKAGE_DEPENDS "init-system-helpers, passwd")
set(CPACK_DEBIAN_CMPOOL_PACKAGE_CONTROL_EXTRA ${packaging}/postinst ${packaging}/prerm ${packaging}/postrm)
set(CPACK_DEBIAN_LIBCMPOOL0_PACKAGE_NAME libcmpool0)
set(CPACK_DEBIAN_LIBCMPOOL0_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBCMPOOL0_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_LIBCMPOOL0_DESCRIPTION "memory pool for LLM serving: client library
 What an engine links to match, get and put blocks of a cmpool.")
set(CPACK_DEBIAN_LIBCMPOOL-DEV_PACKAGE_NAME libcmpool-dev)
set(CPACK_DEBIAN_LIBCMPOOL-DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_LIBCMPOOL-DEV_PACKAGE_DEPENDS "libcmpool0 (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_LIBCMPOOL-DEV_DESCRIPTION "memory pool for LLM serving: headers of the client library
 cmpool.h for C, cmpool.hpp for C++20; files for CMake and pkg-config.")
include(CPack)
