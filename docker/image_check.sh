#!/usr/bin/env bash
# Builds both images with buildah and runs their commands, without a container engine: Debian, as root.
#
# The base image is BASE_IMAGE if given, else a minimal Debian with Python made by debootstrap, which has no compiler
# either. The machine's certificates and pip settings (PIP_… variables) go into that base, so that the check works where pip
# needs them. TORCH_INDEX, when set, is handed on as the build argument of that name: empty means no further index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SUITE=${SUITE:-bookworm}
BASE_IMAGE=${BASE_IMAGE:-}
export STORAGE_DRIVER=vfs BUILDAH_FORMAT=docker BUILDAH_ISOLATION=chroot

((EUID == 0)) || { echo 'image_check.sh: run it as root' >&2; exit 1; }
needed=(buildah)
[[ $BASE_IMAGE ]] || needed+=(debootstrap)
for program in "${needed[@]}"; do
    command -v "$program" >/dev/null || { echo "image_check.sh: install ${needed[*]} first (apt-get install)" >&2; exit 1; }
done

work=$(mktemp --directory)
containers=()
images=()
clean_up() {
    for container in "${containers[@]}"; do buildah rm "$container" >/dev/null; done
    for image in "${images[@]}"; do buildah rmi "$image" >/dev/null 2>&1 || true; done
    rm -rf "$work"
}
trap clean_up EXIT

build_args=()
[[ -v TORCH_INDEX ]] && build_args+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
for folder in ${PIP_FIND_LINKS:-}; do
    [[ -d $folder ]] && build_args+=(--volume "$folder:$folder:ro")
done

# pip_settings: the machine's PIP_… variables as a configuration file.
pip_settings() {
    local name key
    echo '[global]'
    for name in "${!PIP_@}"; do
        key=${name#PIP_}
        key=${key,,}
        printf '%s = %s\n' "${key//_/-}" "${!name}"
    done
}

if [[ ! $BASE_IMAGE ]]; then
    BASE_IMAGE=localhost/headwater-check-base
    echo "Making the base image: Debian $SUITE with Python."
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" "$work/base" >"$work/log" \
        || { tail -20 "$work/log" >&2; exit 1; }
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/ca-certificates.crt"
    pip_settings >"$work/base/etc/pip.conf"
    base=$(buildah from scratch)
    containers+=("$base")
    buildah copy --quiet "$base" "$work/base" /
    buildah commit --quiet "$base" "$BASE_IMAGE" >/dev/null
    images+=("$BASE_IMAGE")
fi

for target in server updater; do
    image=localhost/headwater-check-$target
    images+=("$image")
    echo "Building the $target image."
    buildah build --file docker/Dockerfile --target "$target" --tag "$image" \
        --build-arg "BASE_IMAGE=$BASE_IMAGE" "${build_args[@]}" .

    echo "Running the $target image, $(buildah images --format '{{.Size}}' "$image")."
    container=$(buildah from --pull=never "$image")
    containers+=("$container")
    run=(buildah run "$container" --)
    "${run[@]}" "headwater-$target" --help >/dev/null
    "${run[@]}" headwater --help >/dev/null
    [[ $("${run[@]}" id --user) != 0 ]] || { echo "The $target image runs as root." >&2; exit 1; }
    compilers=$("${run[@]}" sh -c 'for name in cc gcc g++ clang; do command -v "$name" || true; done')
    [[ -z $compilers ]] || { echo "The $target image has a compiler: $compilers" >&2; exit 1; }
done
echo 'Both images build; their commands run, as an ordinary user, with no compiler aboard.'
