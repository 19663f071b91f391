"""A box pulled over the part's picture. Gradio's picture knows clicks alone, so the page brings these few lines of its own.

What they find goes into the hidden field `drag`: x, y, x, y in shares of the picture's sides, and how many pulls there were, so that the
same box again is a change. A short pull is a click, and a finger scrolls: for both there are the two clicks.
"""

SHORT = 6  # pixels of the screen

SCRIPT = """() => {
    let from = null, band = null, pulled = false, pulls = 0;
    const place = (event) => {
        const image = document.querySelector('#view img'), frame = image.getBoundingClientRect();
        const scale = Math.min(frame.width / image.naturalWidth, frame.height / image.naturalHeight);
        const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];  // object-fit: contain
        const [left, top] = [frame.left + (frame.width - width) / 2, frame.top + (frame.height - height) / 2];
        const [x, y] = [Math.min(Math.max((event.clientX - left) / width, 0), 1), Math.min(Math.max((event.clientY - top) / height, 0), 1)];
        return {x, y, screen: [left + x * width, top + y * height]};
    };
    const drop = () => { from = null; if (band) band.remove(); band = null; };
    document.addEventListener('dragstart', (event) => { if (event.target.closest('#view')) event.preventDefault(); });
    document.addEventListener('pointerdown', (event) => {
        pulled = false;
        if (event.button === 0 && event.pointerType !== 'touch' && event.target.matches('#view img')) from = place(event);
    });
    document.addEventListener('pointermove', (event) => {
        if (!from) return;
        if (!band) {
            band = document.createElement('div');
            band.id = 'band';
            document.body.append(band);
        }
        const [one, other] = [from.screen, place(event).screen];
        band.style.left = Math.min(one[0], other[0]) + 'px';
        band.style.top = Math.min(one[1], other[1]) + 'px';
        band.style.width = Math.abs(one[0] - other[0]) + 'px';
        band.style.height = Math.abs(one[1] - other[1]) + 'px';
    });
    document.addEventListener('pointerup', (event) => {
        if (!from) return;
        const [first, to] = [from, place(event)];
        drop();
        if (first.screen.some((value, side) => Math.abs(value - to.screen[side]) < SHORT)) return;
        pulled = true;
        const field = document.querySelector('#drag textarea, #drag input');
        field.value = [first.x, first.y, to.x, to.y].map((value) => value.toFixed(5)).concat(++pulls).join(' ');
        field.dispatchEvent(new Event('input', {bubbles: true}));
    });
    document.addEventListener('pointercancel', drop);
    document.addEventListener('keydown', (event) => { if (event.key === 'Escape') drop(); });
    window.addEventListener('click', (event) => {  // the one that ends a pull is no corner
        if (pulled && event.target.closest('#view')) event.stopPropagation();
        pulled = false;
    }, true);
}""".replace("SHORT", str(SHORT))
