# Passed as -DCMAKE_PROJECT_INCLUDE when messages are compiled.
#
# The exported targets <pkg>__rosidl_generator_py of the ROS 2 wheels carry include directories of the machine that built the
# wheels. They do not exist here, and CMake stops at them. Once the project is read, such targets are pointed at this Python
# and numpy. On an installed ROS 2 every directory exists and nothing is changed.
function(_use_local_python_headers)
  get_property(_targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(_target IN LISTS _targets)
    if(NOT _target MATCHES "__rosidl_generator_py$")
      continue()
    endif()
    get_target_property(_directories ${_target} INTERFACE_INCLUDE_DIRECTORIES)
    foreach(_directory IN LISTS _directories)
      if(IS_ABSOLUTE "${_directory}" AND NOT EXISTS "${_directory}")
        set_property(TARGET ${_target} PROPERTY
          INTERFACE_INCLUDE_DIRECTORIES "${Python3_INCLUDE_DIRS}" "${Python3_NumPy_INCLUDE_DIRS}")
        break()
      endif()
    endforeach()
  endforeach()
endfunction()
cmake_language(DEFER CALL _use_local_python_headers)
