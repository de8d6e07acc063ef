# Passed as -DCMAKE_PROJECT_INCLUDE when messages are compiled against ROS 2 wheels (never on a sourced ROS 2).
#
# The wheels' exported targets <pkg>__rosidl_generator_py carry include directories of the machine that built the
# wheels, which do not exist here and make CMake stop. After the project is read, point them at this Python and numpy.
function(_use_local_python_headers)
  get_property(_targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(_target IN LISTS _targets)
    if(_target MATCHES "__rosidl_generator_py$")
      set_property(TARGET ${_target} PROPERTY
        INTERFACE_INCLUDE_DIRECTORIES "${Python3_INCLUDE_DIRS}" "${Python3_NumPy_INCLUDE_DIRS}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL _use_local_python_headers)
