include(${CMAKE_CURRENT_LIST_DIR}/cmpoolTargets.cmake)
