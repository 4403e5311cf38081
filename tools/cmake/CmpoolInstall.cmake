# Where things go when they are installed.
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
install(FILES ${packaging}/cmpool.tmpfiles DESTINATION lib/tmpfiles.d RENAME cmpool.conf COMPONENT cmpool)
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/cmpool RENAME copyright COMPONENT cmpool)
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libcmpool0 RENAME copyright
    COMPONENT libcmpool0)
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libcmpool-dev RENAME copyright
    COMPONENT libcmpool-dev)
