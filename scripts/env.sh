# shellcheck shell=bash
# Environment of a wbvla shell: `source scripts/env.sh`. make and CI read it too, so there is one definition.

_wbvla_root="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"

if [ ! -x "$_wbvla_root/.venv/bin/python" ]; then
  echo "wbvla: $_wbvla_root/.venv is not there yet; run 'make setup' first" >&2
  return 1 2>/dev/null || exit 1
fi
export VIRTUAL_ENV="$_wbvla_root/.venv"
case "$PATH" in
  "$VIRTUAL_ENV/bin:"*) ;; # already first
  *) export PATH="$VIRTUAL_ENV/bin:$PATH" ;;
esac

if [ -n "${ROS_DISTRO:-}" ]; then
  # A sourced ROS 2: our messages were built by colcon on top of it.
  # shellcheck disable=SC1091
  [ -f "$_wbvla_root/ros_ws/install/setup.bash" ] && source "$_wbvla_root/ros_ws/install/setup.bash"
else
  # ROS 2 wheels: everything is installed into the virtual environment.
  export AMENT_PREFIX_PATH="$VIRTUAL_ENV" CMAKE_PREFIX_PATH="$VIRTUAL_ENV"
fi

# Images through shared memory; Fast DDS 2 reads the first name, Fast DDS 3 the second.
export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$_wbvla_root/config/fastdds.xml}"
export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$_wbvla_root/config/fastdds.xml}"

# Localhost only, in a domain (1..100) that is this checkout's own, so that two checkouts on one machine do not hear each other.
if [ -z "${ROS_DOMAIN_ID:-}" ]; then
  ROS_DOMAIN_ID=$(($(printf '%s' "$_wbvla_root" | cksum | cut -d' ' -f1) % 100 + 1))
  export ROS_DOMAIN_ID
fi
if [ "${ROS_DISTRO:-}" = humble ]; then
  export ROS_LOCALHOST_ONLY="${ROS_LOCALHOST_ONLY:-1}" # Humble does not know the variable below
else
  export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
fi

export MUJOCO_GL="${MUJOCO_GL:-egl}"

unset _wbvla_root
