"""What a run wrote, in HTML: pictures, sounds with their pictures, and texts.

A name with a `*`, as samples/*.wav, stands for all files of the run's folder that match
it, in the order of their names; a sound has its picture above it, where a .png of the
same name lies beside it.
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path


def show(folder: Path, file: str, title: str, caption: str = '') -> list[str]:
    """Show a file, or the files that match; nothing where there is none.

    Args:
      folder: of the run.
      file: its name, or a pattern.
      title: of the artifact.
      caption: below it; of a pattern, before the name of each file.
    """
    if '*' not in file:
        path = folder / file
        return [_show(path, caption, f'{title}: {caption}')] if path.exists() else []
    names = {path: f'{caption}, {path.stem}' if caption else path.stem
             for path in sorted(folder.glob(file))}
    return [_show(path, name, f'{title}: {name}') for path, name in names.items()]


def kind(file: str) -> str:
    """Class of the gallery that a file belongs in."""
    if '*' in file:
        return 'pictures many'
    return 'pictures' if file.endswith(('.png', '.gif')) else 'artifacts'


def gallery(kind: str, items: Sequence[str]) -> str:
    """Put figures side by side."""
    return f'<div class="{kind}">\n' + '\n'.join(items) + '\n</div>'


def figure(picture: bytes, kind: str, caption: str, alt: str) -> str:
    """Show a picture of the bytes."""
    data = base64.b64encode(picture).decode()
    return (f'<figure><img alt="{html.escape(alt)}" '
            f'src="data:image/{kind};base64,{data}">{_below(caption)}</figure>')


def _show(path: Path, caption: str, alt: str) -> str:
    match path.suffix:
        case '.wav':
            picture = path.with_suffix('.png')
            above = (f'<img alt="Picture of {html.escape(alt)}" src="data:image/png;'
                     f'base64,{base64.b64encode(picture.read_bytes()).decode()}">'
                     if picture.exists() else '')
            data = base64.b64encode(path.read_bytes()).decode()
            return (f'<figure>{above}<audio controls aria-label="{html.escape(alt)}" '
                    f'src="data:audio/wav;base64,{data}"></audio>{_below(caption)}'
                    '</figure>')
        case '.txt':
            words = html.escape(path.read_text(encoding='utf-8'))
            return (f'<figure><pre class="artifact">{words}</pre>{_below(caption)}'
                    '</figure>')
        case _:
            return figure(path.read_bytes(), path.suffix[1:], caption, alt)


def _below(caption: str) -> str:
    return f'<figcaption>{html.escape(caption)}</figcaption>' if caption else ''
