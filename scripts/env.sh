# shellcheck shell=bash
# Environment of a wbvla shell: `source scripts/env.sh`. make and CI read it too, so there is one definition.
# bash and zsh know where this file lies; other shells (`. scripts/env.sh`) have to be in the checkout.

if [ -n "${BASH_VERSION:-}" ]; then
  # shellcheck disable=SC3028,SC3054
  _wbvla_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
elif [ -n "${ZSH_VERSION:-}" ]; then
  _wbvla_root="$(cd "$(dirname "$0")/.." && pwd)"
elif [ -f "$PWD/scripts/env.sh" ] && [ -f "$PWD/scripts/setup_env.py" ]; then
  _wbvla_root="$PWD"
else
  echo "wbvla: this shell does not say where scripts/env.sh lies; go to the checkout first, or use bash" >&2
  return 1 2>/dev/null || exit 1
fi

if [ -L "$_wbvla_root/.venv" ] && [ ! -e "$_wbvla_root/.venv" ]; then
  echo "wbvla: $_wbvla_root/.venv is a link to $(readlink "$_wbvla_root/.venv"), which does not exist; remove it and run 'make setup'" >&2
  return 1 2>/dev/null || exit 1
fi
if [ ! -x "$_wbvla_root/.venv/bin/python" ]; then
  echo "wbvla: $_wbvla_root/.venv is not there yet, or damaged; run 'make setup' in $_wbvla_root" >&2
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
  if [ -n "${BASH_VERSION:-}" ]; then
    [ -f "$_wbvla_root/ros_ws/install/setup.bash" ] && . "$_wbvla_root/ros_ws/install/setup.bash"
  else
    [ -f "$_wbvla_root/ros_ws/install/setup.sh" ] && COLCON_CURRENT_PREFIX="$_wbvla_root/ros_ws/install" . "$_wbvla_root/ros_ws/install/setup.sh"
  fi
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
